"""What a tokenizer does, as one number: tokens made by another one are of no use."""

from __future__ import annotations

import hashlib
import json
from typing import Any

#: Parts of a fast tokenizer's description that a call may change, and that ids without padding do not depend on.
_PER_CALL = ("truncation", "padding")


def tokenizer_fingerprint(tokenizer: Any) -> str | None:
    """Hashes vocabulary, merges, normalisation, special tokens and chat template.

    Args:
        tokenizer: of transformers; of anything else, nothing is known.

    Returns:
        The hexadecimal SHA-256; None for what is not a transformers tokenizer.
    """
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        inside = json.loads(tokenizer.backend_tokenizer.to_str())
        content: Any = {name: part for name, part in inside.items() if name not in _PER_CALL}
    else:
        content = [sorted(tokenizer.get_vocab().items()), sorted(map(str, tokenizer.init_kwargs.items()))]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    facts = [type(tokenizer).__name__, special, str(tokenizer.chat_template), content]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def vocabulary_facts(tokenizer: Any) -> dict[str, Any]:
    """Tells vocabularies apart in few words, for processes that must have the same one.

    Args:
        tokenizer: with ``get_vocab``.

    Returns:
        The number of words and a hash of words and ids, plain JSON types.
    """
    words = sorted(tokenizer.get_vocab().items())
    return {"size": len(words), "vocabulary": hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]}

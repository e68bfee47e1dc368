"""Generated tokens as texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decoded_behind(tokenizer: PreTrainedTokenizerBase, prompts: Tensor, tokens: Tensor) -> list[str]:
    """Decodes answers down to the spaces that they begin with.

    Tokenizers drop the first space of a text, which a program's first line cannot spare: an answer is what prompt and
    answer decoded together have behind the prompt.

    Args:
        tokenizer: of both.
        prompts: ids (B, P), left-padded.
        tokens: ids (B, P + A), the answers behind the prompts.

    Returns:
        B texts, without prompt and special tokens.
    """
    width = prompts.shape[1]
    asked, whole, alone = (
        tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (prompts, tokens, tokens[:, width:])
    )
    return [
        both[len(prompt) :] if both.startswith(prompt) else answer
        for prompt, both, answer in zip(asked, whole, alone, strict=True)
    ]

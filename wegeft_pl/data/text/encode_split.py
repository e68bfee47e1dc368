"""The texts of one split as tokens: from the cache, or made in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wegeft_pl.backbones.fingerprint import tokenizer_fingerprint
from wegeft_pl.data.base import check_least
from wegeft_pl.data.text.parallel import encode_all
from wegeft_pl.data.text.token_cache import CACHE_FROM, cache_key, cached, cached_or_held, say_once
from wegeft_pl.data.text.tokenize import EncodedExample, Sample, SplitEncoder


@dataclass(frozen=True)
class Encoding:
    """How texts become tokens.

    Args:
        num_proc: processes that tokenise; None: this one, where a fast tokenizer has threads of its own.
        cache_dir: folder of the token cache; None: tokens stay in memory and are made anew by each run.
        streaming: keep tokens in the cache's files only, whatever their number.

    Raises:
        ValueError: streaming without a cache, or no process at all.
    """

    num_proc: int | None = None
    cache_dir: str | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        check_least("num_proc", self.num_proc, 1)
        if self.streaming and self.cache_dir is None:
            raise ValueError(
                "data.streaming keeps tokens in files, but data.cache_dir is null; name a folder with room for them"
            )

    def __call__(
        self, encoder: SplitEncoder[Sample], samples: Callable[[], Iterable[Sample]], total: int, label: str
    ) -> Sequence[EncodedExample]:
        """Encodes one split.

        Args:
            encoder: with its tokenizer.
            samples: gives all of them, from the first one on, each time it is called.
            total: how many they are.
            label: the split's name.

        Returns:
            The samples' tokens, in their order.

        Raises:
            ValueError: a sample cannot be encoded, or streaming meets a tokenizer that is not of transformers.
            OSError: streaming cannot write the cache.
        """

        def make() -> Iterable[EncodedExample]:
            return encode_all(encoder, samples(), total, self.num_proc, label)

        fingerprint = tokenizer_fingerprint(encoder.tokenizer)
        if self.streaming and fingerprint is None:
            raise ValueError("data.streaming needs a tokenizer of transformers; set it to false")
        if self.cache_dir is None or fingerprint is None or not (self.streaming or total >= CACHE_FROM):
            return list(make())
        folder = Path(self.cache_dir).expanduser()
        key = cache_key(fingerprint, encoder.max_length, encoder.train_on_prompt, samples(), encoder.settings)
        return (cached if self.streaming else cached_or_held)(folder, key, make, say_once)

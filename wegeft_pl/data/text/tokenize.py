"""Turns a prompt and its response into token ids and labels, the same prompt ids that generation starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from wegeft_pl.losses import IGNORED

#: Texts and characters in one call of the tokenizer: many of them, but not a whole file of long ones.
CHUNK = 1000
CHUNK_CHARACTERS = 1_000_000


class Tokenizer(Protocol):
    """What this room asks of a transformers tokenizer."""

    bos_token_id: Any
    eos_token_id: Any
    pad_token_id: Any

    def __call__(
        self, text: str | list[str], *, add_special_tokens: bool = True, verbose: bool = True
    ) -> Mapping[str, Any]:
        """Encodes a text, or several; ``["input_ids"]`` of the result is the list of ids, or a list of such lists."""
        ...


class Encodable(Protocol):
    """One sample before it is tokenised: a pair of texts, or a conversation."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All that its tokens are made of; two different samples in a row never have the texts of two others."""
        ...


Sample = TypeVar("Sample", bound=Encodable)
Taken = TypeVar("Taken", bound=Encodable, contravariant=True)


class SplitEncoder(Protocol[Taken]):
    """What encodes samples of one kind, with one tokenizer."""

    tokenizer: Any
    max_length: int
    train_on_prompt: bool

    @property
    def settings(self) -> tuple[object, ...]:
        """Whatever else tokens and labels depend on; its ``repr`` tells one from another."""
        ...

    def encode_many(self, samples: Iterable[Taken], /) -> Iterator[EncodedExample]:
        """Encodes samples in their order."""
        ...


class TextPair(NamedTuple):
    """A prompt with its response.

    Args:
        prompt: what generation starts from.
        response: what follows it.
        place: file and line, for messages; may be empty.
    """

    prompt: str
    response: str
    place: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Prompt and response."""
        return self.prompt, self.response


@dataclass(frozen=True)
class EncodedExample:
    """One sequence with its labels.

    Args:
        input_ids: prompt, response and EOS, cut on the right at the maximum length.
        labels: as long as ``input_ids`` and aligned with it (not shifted), -100 where there is no loss.
        prompt_ids: the prompt alone and never cut; ``input_ids`` starts with it as far as it reaches.
        truncated: whether something was cut off.
    """

    input_ids: list[int]
    labels: list[int]
    prompt_ids: list[int]
    truncated: bool

    @property
    def prompt_length(self) -> int:
        """Number of tokens of the uncut prompt, special tokens included."""
        return len(self.prompt_ids)

    @property
    def num_labels(self) -> int:
        """Number of tokens that the loss counts: a label on the very first token has nothing that predicts it."""
        return sum(label != IGNORED for label in self.labels[1:])

    @property
    def has_label(self) -> bool:
        """Whether the loss counts any token."""
        return self.num_labels > 0


class ExampleEncoder:
    """Encodes prompts and prompt-response pairs with one tokenizer.

    Prompt and response are tokenised jointly, as a reader of the text would. Where a token spans the boundary, so that
    the joint ids do not begin with the prompt's own ids, the response is tokenised separately: training then sees
    exactly the prompt ids that generation will see. Special tokens in front (BOS) are what the tokenizer adds, never
    doubled; whatever it adds behind is removed and one EOS is put after the response, by position: the pad or EOS id
    is never searched for, so a pad token equal to EOS does not unteach the model to stop.

    Args:
        tokenizer: a transformers tokenizer with an EOS token.
        max_length: most tokens of a sequence, EOS included; longer ones are cut on the right.
        train_on_prompt: whether the loss counts the prompt's tokens too.

    Raises:
        ValueError: ``max_length`` is below 1, or the tokenizer has no EOS token.

    Source: LIGHTNING.md, silent trap 10.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, train_on_prompt: bool = False) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, so a model cannot learn to stop; set its eos_token")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.train_on_prompt = train_on_prompt
        self._leading: list[int] | None = None

    @property
    def settings(self) -> tuple[object, ...]:
        """Nothing beside the tokenizer and the arguments."""
        return ()

    def encode_prompt(self, prompt: str) -> list[int]:
        """Encodes a prompt as generation sees it: the tokenizer's leading special tokens, none behind.

        Raises:
            ValueError: the prompt has no token at all, so there is nothing to generate from.
        """
        ids = self._encode(prompt)
        if not ids:
            raise ValueError(f"prompt {prompt!r} has no token; a model cannot generate from nothing")
        return ids

    def encode(self, prompt: str, response: str) -> EncodedExample:
        """Encodes a prompt followed by its response and EOS; see the class for the rules.

        Raises:
            ValueError: the prompt has no token at all.
        """
        return self._join(self.encode_prompt(prompt), self._encode(prompt + response), response)

    def encode_many(self, pairs: Iterable[TextPair]) -> Iterator[EncodedExample]:
        """Encodes pairs as :meth:`encode` does each of them, many in one call of the tokenizer.

        A fast tokenizer shares such a call out among its own threads (TOKENIZERS_PARALLELISM=false forbids it).

        Raises:
            ValueError: a prompt has no token at all; names its place.
        """
        for chunk in chunks(pairs):
            prompts = self._encode_all([pair.prompt for pair in chunk])
            joint = self._encode_all([pair.prompt + pair.response for pair in chunk])
            for pair, prompt_ids, ids in zip(chunk, prompts, joint, strict=True):
                if not prompt_ids:
                    at = f"{pair.place}: " if pair.place else ""
                    raise ValueError(f"{at}prompt {pair.prompt!r} has no token; a model cannot generate from nothing")
                yield self._join(prompt_ids, ids, pair.response)

    def _join(self, prompt_ids: list[int], ids: list[int], response: str) -> EncodedExample:
        if ids[: len(prompt_ids)] != prompt_ids:
            ids = prompt_ids + encode_plain(self.tokenizer, response)
        eos = self.tokenizer.eos_token_id
        if len(ids) == len(prompt_ids) or ids[-1] != eos:  # a response that spells EOS out does not get a second one
            ids.append(eos)
        masked = 0 if self.train_on_prompt else len(prompt_ids)
        labels = [IGNORED] * masked + ids[masked:]
        return EncodedExample(
            input_ids=ids[: self.max_length],
            labels=labels[: self.max_length],
            prompt_ids=prompt_ids,
            truncated=len(ids) > self.max_length,
        )

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        plain = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [self._with_leading(text, list(ids)) for text, ids in zip(texts, plain, strict=True)]

    def _encode(self, text: str) -> list[int]:
        return self._with_leading(text, encode_plain(self.tokenizer, text))

    def _with_leading(self, text: str, plain: list[int]) -> list[int]:
        if self._leading is None:
            leading = leading_ids(self.tokenizer, text)
            if not plain:
                return leading
            self._leading = leading  # the same for every text: one look is enough
        bos = self.tokenizer.bos_token_id
        if bos is not None and self._leading[-1:] == [bos] and plain[:1] == [bos]:
            plain = plain[1:]  # the text spells BOS out and the tokenizer adds one: keep one
        return self._leading + plain


class PairTaker(ExampleEncoder):
    """Stands in for an encoder while texts are put together: takes note of them, so that all are encoded together.

    Args:
        encoder: the one that will encode.
    """

    def __init__(self, encoder: ExampleEncoder) -> None:
        super().__init__(encoder.tokenizer, encoder.max_length, encoder.train_on_prompt)
        self._pair: tuple[str, str] | None = None

    def encode(self, prompt: str, response: str) -> EncodedExample:
        """Takes note of a pair, and returns an example without tokens in its place."""
        assert self._pair is None, "a row has one prompt and one response"
        self._pair = prompt, response
        return EncodedExample(input_ids=[], labels=[], prompt_ids=[], truncated=False)

    def take(self, place: str) -> TextPair | None:
        """Returns the pair that was noted since the last call, if one was."""
        pair, self._pair = self._pair, None
        return None if pair is None else TextPair(*pair, place)


def chunks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Cuts samples into lists for one call of the tokenizer each."""
    chunk: list[Sample] = []
    characters = 0
    for sample in samples:
        chunk.append(sample)
        characters += sum(map(len, sample.texts))
        if len(chunk) == CHUNK or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encodes a text without special tokens, whatever its length.

    ``verbose=False`` turns off one message only, "sequence length is longer than model_max_length": sequences are cut
    later, which the tokenizer cannot know.
    """
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def leading_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Finds the special tokens that a tokenizer puts in front of a text (BOS, or none).

    Args:
        tokenizer: a transformers tokenizer.
        text: any text; for one without tokens, everything that the tokenizer adds counts as leading.

    Returns:
        The ids in front.

    Raises:
        ValueError: the tokenizer does more than add tokens around the text.
    """
    ids, plain = list(tokenizer(text, verbose=False)["input_ids"]), encode_plain(tokenizer, text)
    if not plain:
        return ids
    for start in range(len(ids) - len(plain) + 1):
        if ids[start : start + len(plain)] == plain:
            return ids[:start]
    raise ValueError(
        "the tokenizer encodes a text differently with and without special tokens "
        f"({ids[:8]}... against {plain[:8]}...); only tokens added around the text are supported"
    )


def encode_example(
    tokenizer: Tokenizer, prompt: str, response: str, max_length: int, train_on_prompt: bool = False
) -> EncodedExample:
    """Encodes one prompt and response; see :class:`ExampleEncoder` for the rules, the arguments and the errors."""
    return ExampleEncoder(tokenizer, max_length, train_on_prompt).encode(prompt, response)

"""What every encoder of conversations is: ids, labels on the answers, and the prompt that generation starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from wegeft_pl.data.text.messages import Conversation, Message
from wegeft_pl.data.text.tokenize import EncodedExample
from wegeft_pl.losses import IGNORED

TrainOn = Literal["all_turns", "last_turn"]
#: Begin and end of an answer's ids, EOS included.
Span = tuple[int, int]


class ChatEncoder(ABC):
    """Encodes conversations with one tokenizer.

    The loss is on the assistant's turns and on the one EOS that ends each of them, and on nothing else.

    Args:
        tokenizer: a transformers tokenizer with an EOS token.
        max_length: most tokens of a sequence; longer ones are cut on the right.
        train_on: on which of the assistant's turns the loss is.
        train_on_prompt: whether the loss counts everything else too.

    Raises:
        ValueError: the tokenizer has no EOS token.
    """

    def __init__(self, tokenizer: Any, max_length: int, train_on: TrainOn, train_on_prompt: bool = False) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, so a model cannot learn to stop; set its eos_token")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.train_on = train_on
        self.train_on_prompt = train_on_prompt

    @abstractmethod
    def spans(self, conversation: Conversation) -> tuple[list[int], list[Span]]:
        """Returns a conversation's ids, and where in them each answer stands."""

    @abstractmethod
    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Returns the text from which the answer to the last message is generated."""

    @abstractmethod
    def prompt(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Returns that text and its ids."""

    @abstractmethod
    def cut(self, text: str) -> str:
        """Cuts a generated answer where it is over, and takes space around it away."""

    def encode(self, conversation: Conversation) -> EncodedExample:
        """Encodes a conversation; one without a last answer has labels on earlier answers only.

        Raises:
            ValueError: the template cannot say where answers stand, or forgets EOS.
        """
        return self.label(conversation, *self.spans(conversation))

    def encode_many(self, conversations: Iterable[Conversation]) -> Iterator[EncodedExample]:
        """Encodes conversations as :meth:`encode` does each of them.

        Raises:
            ValueError: see there; names the place.
        """
        return map(self.encode, conversations)

    @property
    def settings(self) -> tuple[object, ...]:
        """What tokens and labels depend on beside the tokenizer, the length and ``train_on_prompt``."""
        return type(self).__name__, self.train_on

    def label(self, conversation: Conversation, ids: list[int], spans: list[Span]) -> EncodedExample:
        """Makes the example of what :meth:`spans` returned."""
        chosen = spans if self.train_on == "all_turns" else spans[-1:] if conversation.is_answered else []
        labels = list(ids) if self.train_on_prompt else [IGNORED] * len(ids)
        for begin, end in chosen:
            labels[begin:end] = ids[begin:end]
        return EncodedExample(
            input_ids=ids[: self.max_length],
            labels=labels[: self.max_length],
            prompt_ids=ids[: spans[-1][0]] if conversation.is_answered else ids,
            truncated=len(ids) > self.max_length,
        )

"""Conversations, and the layouts of rows that hold them: Alpaca, messages, ShareGPT, prompt and completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from wegeft_pl.data.rows import read_values
from wegeft_pl.data.text.stream import Streamed

Role = Literal["system", "user", "assistant"]
Layout = Literal["alpaca", "messages", "sharegpt", "prompt_completion"]

#: How files call the three roles.
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
#: The columns of a question and its answer, by whom they are so called.
PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Args:
        role: who speaks.
        content: what is said.
        input: what an Alpaca row gives beside its instruction; a template may have a place of its own for it.
    """

    role: Role
    content: str
    input: str = ""


@dataclass(frozen=True)
class Conversation:
    """Messages in order: perhaps one of the system, then user and assistant in turn.

    Args:
        messages: at least one of the user.
        place: file and row, for messages.
        dataset: which data set the row says it is from; None where it does not.

    Raises:
        ValueError: the roles come in another order.
    """

    messages: tuple[Message, ...]
    place: str
    dataset: str | None = None

    def __post_init__(self) -> None:
        turns = self.turns
        wanted = [("user", "assistant")[number % 2] for number in range(len(turns))]
        roles = [message.role for message in turns]
        if not turns or roles != wanted:
            raise ValueError(
                f"{self.place}: after at most one system message, user and assistant must take turns, user first; got "
                f"{', '.join(message.role for message in self.messages) or 'no message'}"
            )

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages of user and assistant."""
        return self.messages[1:] if self.messages and self.messages[0].role == "system" else self.messages

    @property
    def texts(self) -> tuple[str, ...]:
        """The roles in one word, which tells how many messages there are, and each one's content and input."""
        said = [text for message in self.messages for text in (message.content, message.input)]
        return " ".join(message.role for message in self.messages), *said

    @property
    def is_answered(self) -> bool:
        """Whether the assistant has the last word."""
        return self.messages[-1].role == "assistant"


def read_conversations(path: Path, layout: Layout | Literal["auto"]) -> list[Conversation]:
    """Reads a .json or .jsonl file of conversations.

    Args:
        path: the file.
        layout: how its rows are laid out; auto: as the columns of each row say.

    Returns:
        The conversations in file order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or a row is faulty; its place is named.
    """
    return [take_conversation(row, layout, place) for row, place in read_values(path)]


class StreamedConversations(Streamed[Conversation]):
    """Conversations of a .jsonl file that is larger than memory, as :func:`read_conversations` reads them.

    Args:
        path: the file; blank lines are skipped.
        layout: see there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .jsonl file, or has no row; and when a row is asked for, that row is faulty.
    """

    def __init__(self, path: Path, layout: Layout | Literal["auto"]) -> None:
        super().__init__(path)
        self.layout = layout

    def take(self, value: Any, place: str) -> Conversation:
        """Makes a line's conversation; see :func:`take_conversation`."""
        return take_conversation(value, self.layout, place)


def take_conversation(row: object, layout: Layout | Literal["auto"], place: str) -> Conversation:
    """Turns a row into a conversation.

    Args:
        row: what the file, or the hub, holds.
        layout: how it is laid out.
        place: where it stands, for the messages.

    Returns:
        The conversation.

    Raises:
        ValueError: the row is no object, has none of the layouts, lacks a column, or holds something else there.

    Example:
        >>> row = {"instruction": "Add.", "input": "1, 2", "output": "3"}
        >>> [message.role for message in take_conversation(row, "auto", "data.json: row 1").messages]
        ['user', 'assistant']
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: a row must be a JSON object, got {row!r:.40}")
    chosen = detect_layout(row, place) if layout == "auto" else layout
    dataset = row.get("dataset")
    messages = _TAKERS[chosen](row, place)
    return Conversation(tuple(messages), place, dataset if isinstance(dataset, str) else None)


def detect_layout(row: Mapping[str, Any], place: str) -> Layout:
    """Tells a row's layout by its columns.

    Raises:
        ValueError: they are those of no layout.

    Example:
        >>> detect_layout({"conversations": []}, "a.json: row 1"), detect_layout({"prompt": "", "response": ""}, "")
        ('sharegpt', 'prompt_completion')
    """
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row:
        return "alpaca"
    if any(question in row and answer in row for question, answer in PAIRS):
        return "prompt_completion"
    raise ValueError(
        f"{place}: no known layout; this row has {', '.join(map(str, row)) or 'no column'}, and the layouts "
        f"({', '.join(get_args(Layout))}) need messages, conversations, instruction, or prompt and completion"
    )


def _take_alpaca(row: Mapping[str, Any], place: str) -> list[Message]:
    system = [Message("system", _text(row, "system", place))] if row.get("system") else []
    user = Message("user", _text(row, "instruction", place), _text(row, "input", place) if row.get("input") else "")
    return [*system, user, Message("assistant", _text(row, "output", place))]


def _take_pair(row: Mapping[str, Any], place: str) -> list[Message]:
    question, answer = next(((q, a) for q, a in PAIRS if q in row and a in row), PAIRS[0])
    return [Message("user", _text(row, question, place)), Message("assistant", _text(row, answer, place))]


def _take_messages(row: Mapping[str, Any], place: str) -> list[Message]:
    return _take_turns(row, "messages", ("role", "content"), place)


def _take_sharegpt(row: Mapping[str, Any], place: str) -> list[Message]:
    system = [Message("system", _text(row, "system", place))] if row.get("system") else []
    return system + _take_turns(row, "conversations", ("from", "value"), place)


def _take_turns(row: Mapping[str, Any], column: str, names: tuple[str, str], place: str) -> list[Message]:
    turns = row.get(column)
    if not isinstance(turns, list):
        raise ValueError(f"{place}: column {column!r} must hold an array of messages, got {turns!r:.40}")
    messages = []
    for number, turn in enumerate(turns, 1):
        at = f"{place}: {column}[{number}]"
        if not isinstance(turn, Mapping):
            raise ValueError(f"{at} must be an object with {names[0]!r} and {names[1]!r}, got {turn!r:.40}")
        role = _text(turn, names[0], at)
        if role not in ROLES:
            raise ValueError(f"{at}: no role {role!r}; roles are {', '.join(ROLES)}")
        messages.append(Message(ROLES[role], _text(turn, names[1], at)))
    return messages


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    if column not in row:
        raise ValueError(f"{place}: no column {column!r}; there are: {', '.join(map(str, row)) or 'none'}")
    if not isinstance(row[column], str):
        raise ValueError(f"{place}: column {column!r} must hold a string, got {row[column]!r:.40}")
    return row[column]


_TAKERS = {
    "alpaca": _take_alpaca,
    "messages": _take_messages,
    "sharegpt": _take_sharegpt,
    "prompt_completion": _take_pair,
}

"""Named chat templates, for tokenizers that have none of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from wegeft_pl.data.text.messages import Message

#: The name that stands for the tokenizer's own template.
CHAT = "chat"


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation becomes text.

    Args:
        name: its name in ``CHAT_TEMPLATES``.
        turn: the text from the beginning of a round to where the answer begins, with ``{user}``, and ``{system}``,
            which is empty after the first round.
        system: the text of a system message, with ``{system}``.
        default_system: the system message of a conversation without one; empty: none.
        answer: the text of an answer, with ``{answer}``; an end-of-sequence token follows it.
        between: what stands between an answer's end and the next round.
        input: the text of a user's message with an Alpaca row's input, with ``{user}`` and ``{input}``.
        default_system_with_input: the default system message where the first message has an input; empty: the same.
        bos_every_round: whether each round begins with BOS, and not the first one alone.
        stop: strings at which a generated answer is cut.
    """

    name: str
    turn: str
    system: str
    default_system: str = ""
    answer: str = "{answer}"
    between: str = ""
    input: str = "{user}\n{input}"
    default_system_with_input: str = ""
    bos_every_round: bool = False
    stop: tuple[str, ...] = ()

    def rounds(self, messages: Sequence[Message]) -> list[tuple[str, str | None]]:
        """Returns each round's text before the answer and the answer's; None for an answer that is to be generated.

        Example:
            >>> talk = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")]
            >>> CHAT_TEMPLATES["llama2"].rounds(talk)
            [('[INST] Hi [/INST]', ' Hello '), ('[INST] Bye [/INST]', None)]
        """
        turns = [message for message in messages if message.role != "system"]
        default = self.default_system
        if turns[0].input and self.default_system_with_input:
            default = self.default_system_with_input
        system = messages[0].content if messages[0].role == "system" else default
        head = _fill(self.system, system=system) if system else ""
        found: list[tuple[str, str | None]] = []
        for user, answer in zip(turns[::2], [*turns[1::2], None], strict=False):
            content = _fill(self.input, user=user.content, input=user.input) if user.input else user.content
            first = not found
            text = ("" if first else self.between) + _fill(self.turn, system=head if first else "", user=content)
            found.append((text, None if answer is None else _fill(self.answer, answer=answer.content)))
        return found

    def cut(self, text: str) -> str:
        """Cuts a generated answer at the first stop string, and takes space around it away."""
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=len(text))].strip()


def _fill(template: str, **values: str) -> str:
    """Puts values in one pass, so that braces inside a value stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


_ALPACA = "Below is an instruction that describes a task{0}. Write a response that appropriately completes the request."
CHAT_TEMPLATES = {
    template.name: template
    for template in (
        ChatTemplate(
            "alpaca",
            turn="{system}### Instruction:\n{user}\n\n### Response:\n",
            system="{system}\n\n",
            default_system=_ALPACA.format(""),
            default_system_with_input=_ALPACA.format(", paired with an input that provides further context"),
            between="\n\n",
            input="{user}\n\n### Input:\n{input}",
            stop=("### Instruction:",),
        ),
        ChatTemplate(
            "vicuna",
            turn="{system}USER: {user} ASSISTANT:",
            system="{system} ",
            default_system=(
                "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
                "detailed, and polite answers to the user's questions."
            ),
            answer=" {answer}",
            stop=("USER:",),
        ),
        ChatTemplate(
            "llama2",
            turn="[INST] {system}{user} [/INST]",
            system="<<SYS>>\n{system}\n<</SYS>>\n\n",
            answer=" {answer} ",
            bos_every_round=True,
            stop=("[INST]",),
        ),
        ChatTemplate(
            "chatml",
            turn="{system}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n",
            system="<|im_start|>system\n{system}<|im_end|>\n",
            answer="{answer}<|im_end|>",
            between="\n",
            stop=("<|im_end|>", "<|im_start|>"),
        ),
        ChatTemplate("plain", turn="{system}{user}\n", system="{system}\n", between="\n"),
    )
}


def get_chat_template(name: str) -> ChatTemplate | None:
    """Finds a named template; None for ``chat``, the tokenizer's own.

    Raises:
        ValueError: there is no template of that name.

    Example:
        >>> get_chat_template("plain").rounds([Message("user", "Hi")])
        [('Hi\\n', None)]
    """
    if name == CHAT:
        return None
    if name in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[name]
    close = get_close_matches(name, [CHAT, *CHAT_TEMPLATES], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"data.prompt: no chat template {name!r}; {hint}Templates: {', '.join(CHAT_TEMPLATES)}, or {CHAT} for the "
        "tokenizer's own"
    )

"""Prompt templates: how a question becomes a prompt, an answer a response, and where a generated answer ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt and response format.

    Args:
        name: its name in ``TEMPLATES``, or ``"custom"``.
        prompt: text with ``{question}``; the loss and the generated answer begin right after it.
        response: text with ``{answer}``; an end-of-sequence token follows it.
        stop: strings at which a generated answer is cut before it is scored, because a base model goes on to
            invent the next question.

    Raises:
        ValueError: a placeholder is missing or unknown.
    """

    name: str
    prompt: str
    response: str = "{answer}"
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, text, wanted in (("prompt", self.prompt, "question"), ("response", self.response, "answer")):
            names = re.findall(r"\{(\w+)\}", text)
            if wanted not in names:
                raise ValueError(f"{field} template {text!r} has no {{{wanted}}}")
            for name in names:
                if name != wanted:
                    way_out = "end it where the answer begins" if name == "answer" else "leave the braces out"
                    raise ValueError(
                        f"{field} template {text!r} has {{{name}}}; its only placeholder is {{{wanted}}}: {way_out}"
                    )

    def format_prompt(self, question: str) -> str:
        """Returns the prompt for a question, braces inside the question left as they are."""
        return self.prompt.replace("{question}", question)

    def format_response(self, answer: str) -> str:
        """Returns the response for an answer, without the end-of-sequence token."""
        return self.response.replace("{answer}", answer)

    def cut(self, text: str) -> str:
        """Cuts a generated text at the first stop string.

        Example:
            >>> TEMPLATES["qa"].cut("3 + 4 = 7\\n#### 7\\nQuestion: And now?")
            '3 + 4 = 7\\n#### 7\\n'
        """
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=len(text))]


def read_cut(extract: Callable[[str], str | None], template: PromptTemplate, text: str) -> str | None:
    """Extracts an answer from a generated text that is cut at the template's stop strings first.

    Example:
        >>> from wegeft_pl.metrics import last_number
        >>> read_cut(last_number, TEMPLATES["qa"], "it is 7\\nQuestion: What is 1 + 1?")
        '7'
    """
    return extract(template.cut(text))


TEMPLATES = {
    template.name: template
    for template in (
        PromptTemplate("qa", "Question: {question}\nAnswer:\n", stop=("Question:",)),
        PromptTemplate(
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\n{question}\n\n### Response:\n",
            stop=("### Instruction:",),
        ),
        PromptTemplate("plain", "{question}\n"),
    )
}


def get_template(value: str) -> PromptTemplate:
    """Finds a named template, or makes one from a text that contains ``{question}``.

    Args:
        value: a name in ``TEMPLATES``, or the prompt's text itself.

    Returns:
        The template; one made from a text is called ``"custom"`` and has no stop strings.

    Raises:
        ValueError: neither a name nor a text with ``{question}``.

    Example:
        >>> get_template("qa").format_prompt("2 + 2?")
        'Question: 2 + 2?\\nAnswer:\\n'
        >>> get_template("Q: {question} A:").format_prompt("2 + 2?")
        'Q: 2 + 2? A:'
    """
    if value in TEMPLATES:
        return TEMPLATES[value]
    if "{question}" in value:
        return PromptTemplate("custom", value)
    close = get_close_matches(value, TEMPLATES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"no prompt template {value!r}; {hint}Templates: {', '.join(TEMPLATES)}, or a text that contains {{question}}"
    )

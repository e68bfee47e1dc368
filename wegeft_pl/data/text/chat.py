"""Turns conversations into token ids and labels, by a named template or by the tokenizer's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from wegeft_pl.data.text.chat_encoder import ChatEncoder as ChatEncoder
from wegeft_pl.data.text.chat_encoder import Span
from wegeft_pl.data.text.chat_encoder import TrainOn as TrainOn
from wegeft_pl.data.text.chat_templates import ChatTemplate, get_chat_template
from wegeft_pl.data.text.messages import Conversation, Message
from wegeft_pl.data.text.tokenize import EncodedExample, Tokenizer, chunks, encode_plain, leading_ids


class NamedChatEncoder(ChatEncoder):
    """Encodes by a named template, round by round: each begins behind an EOS, where tokens cannot merge.

    Within a round prompt and answer are tokenised jointly, and separately where a token would span the boundary. BOS
    is what the tokenizer puts in front of a text, once, or once a round where the template says so.

    Args:
        template: the template.
        tokenizer: see :class:`ChatEncoder`, as the rest.
        max_length: see there.
        train_on: see there.
        train_on_prompt: see there.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        max_length: int,
        train_on: TrainOn,
        train_on_prompt: bool = False,
    ) -> None:
        super().__init__(tokenizer, max_length, train_on, train_on_prompt)
        self.template = template
        self._leading = leading_ids(tokenizer, "a")

    def spans(self, conversation: Conversation) -> tuple[list[int], list[Span]]:
        """Returns a conversation's ids, and where in them each answer stands."""
        return self._spans(conversation, lambda text: encode_plain(self.tokenizer, text))

    def encode_many(self, conversations: Iterable[Conversation]) -> Iterator[EncodedExample]:
        """Encodes conversations as :meth:`encode` does each of them, many in one call of the tokenizer.

        A fast tokenizer shares such a call out among its own threads (TOKENIZERS_PARALLELISM=false forbids it).
        """
        for chunk in chunks(conversations):
            rounds = [one for conversation in chunk for one in self.template.rounds(conversation.messages)]
            texts = list(dict.fromkeys(text for prompt, answer in rounds for text in (prompt, prompt + (answer or ""))))
            ids = dict(
                zip(texts, self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"], strict=True)
            )

            def encode_text(text: str, known: dict[str, list[int]] = ids) -> list[int]:
                return known[text] if text in known else encode_plain(self.tokenizer, text)

            for conversation in chunk:
                yield self.label(conversation, *self._spans(conversation, encode_text))

    @property
    def settings(self) -> tuple[object, ...]:
        """Adds the template."""
        return *super().settings, self.template

    def _spans(
        self, conversation: Conversation, encode_text: Callable[[str], list[int]]
    ) -> tuple[list[int], list[Span]]:
        ids: list[int] = []
        spans: list[Span] = []
        for prompt, answer in self.template.rounds(conversation.messages):
            start = [] if ids and not self.template.bos_every_round else self._leading
            before = start + encode_text(prompt)
            if answer is None:
                return ids + before, spans
            joint = start + encode_text(prompt + answer)
            if joint[: len(before)] != before:
                joint = before + encode_text(answer)
            if len(joint) == len(before) or joint[-1] != self.tokenizer.eos_token_id:
                joint.append(self.tokenizer.eos_token_id)
            spans.append((len(ids) + len(before), len(ids) + len(joint)))
            ids += joint
        return ids, spans

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Returns the text from which the answer to the last message is generated."""
        return "".join(prompt + (answer or "") for prompt, answer in self.template.rounds(messages))

    def prompt(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Returns that text and its ids."""
        return self.prompt_text(messages), self.spans(Conversation(tuple(messages), ""))[0]

    def cut(self, text: str) -> str:
        """Cuts a generated answer at the template's stop strings."""
        return self.template.cut(text)


class TokenizerChatEncoder(ChatEncoder):
    """Encodes by the tokenizer's own chat template, which writes BOS and EOS itself.

    Where the template marks what the assistant says (``{% generation %}``), that mask tells the answers. Elsewhere,
    and where a token would span an answer's beginning, a conversation is rendered as far as each answer, with and
    without it; a template that renders a beginning otherwise once the conversation goes on is refused then.

    Args:
        tokenizer: a tokenizer with a chat template, and see :class:`ChatEncoder`, as the rest.
        max_length: see there.
        train_on: see there.
        train_on_prompt: see there.

    Raises:
        ValueError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, max_length: int, train_on: TrainOn, train_on_prompt: bool = False) -> None:
        super().__init__(tokenizer, max_length, train_on, train_on_prompt)
        if tokenizer.chat_template is None:
            raise ValueError(
                "data.prompt=chat asks for the tokenizer's own chat template and it has none; name a template: "
                "alpaca, vicuna, llama2, chatml or plain"
            )
        self._marks_answers = "generation %}" in tokenizer.chat_template or "generation -%}" in tokenizer.chat_template

    def spans(self, conversation: Conversation) -> tuple[list[int], list[Span]]:
        """Returns a conversation's ids, and where in them each answer stands.

        Raises:
            ValueError: the answers cannot be told, or the template ends them with something else than EOS.
        """
        found = self._marked_spans(conversation) if self._marks_answers else None
        ids, spans = self._rendered_spans(conversation) if found is None else found
        return ids, [self._up_to_eos(ids, span, conversation) for span in spans]

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Returns the text from which the answer to the last message is generated."""
        return self._render(messages, True)

    def prompt(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Returns that text and its ids."""
        text = self.prompt_text(messages)
        return text, encode_plain(self.tokenizer, text)

    @property
    def settings(self) -> tuple[object, ...]:
        """Adds a question as the template writes it today: some write the date into every prompt."""
        return *super().settings, self._render([Message("user", "a")], True)

    def cut(self, text: str) -> str:
        """Takes space around a generated answer away: it ends with EOS, which is not in the text."""
        return text.strip()

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            _plain(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _marked_spans(self, conversation: Conversation) -> tuple[list[int], list[Span]] | None:
        """What the template's marks say; None where a token spans an answer's beginning, which they cannot say."""
        messages = conversation.messages
        encoded = self.tokenizer.apply_chat_template(
            _plain(messages),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            add_generation_prompt=not conversation.is_answered,
        )
        ids, mask = list(encoded["input_ids"]), [0, *encoded["assistant_masks"], 0]
        edges = [place for place in range(len(ids) + 1) if mask[place] != mask[place + 1]]
        spans = list(zip(edges[::2], edges[1::2], strict=True))
        answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
        if len(spans) != len(answers):
            raise ValueError(
                f"{conversation.place}: the chat template marks {len(spans)} answers and there are {len(answers)}; "
                "an answer may be empty, or name another template with data.prompt"
            )
        whole = self._render(messages, not conversation.is_answered)
        for place, (begin, _) in zip(answers, spans, strict=True):
            before = self._render(messages[:place], True)
            if whole.startswith(before) and encode_plain(self.tokenizer, before) != ids[:begin]:
                return None
        return ids, spans

    def _rendered_spans(self, conversation: Conversation) -> tuple[list[int], list[Span]]:
        messages = conversation.messages
        whole = self._render(messages, not conversation.is_answered)
        ids: list[int] = []
        spans: list[Span] = []
        done = ""
        answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
        for place in answers[-1:] if self.train_on == "last_turn" else answers:
            edges = []
            for text in (self._render(messages[:place], True), self._render(messages[: place + 1], False)):
                if not (whole.startswith(text) and text.startswith(done)):
                    raise ValueError(
                        f"{conversation.place}: the chat template renders message {place + 1} differently once the "
                        "conversation goes on, so answers cannot be told; set data.train_on to last_turn, or name "
                        "another template with data.prompt"
                    )
                ids, done = self._extend(ids, done, text), text
                edges.append(len(ids))
            spans.append((edges[0], edges[1]))
        return self._extend(ids, done, whole), spans

    def _extend(self, ids: list[int], done: str, text: str) -> list[int]:
        """The ids of a longer text, the beginning's kept as they are."""
        joint = encode_plain(self.tokenizer, text)
        return joint if joint[: len(ids)] == ids else ids + encode_plain(self.tokenizer, text[len(done) :])

    def _up_to_eos(self, ids: list[int], span: Span, conversation: Conversation) -> Span:
        """An answer and its EOS, which may stand behind what the template marks, and before its line break."""
        begin, end = span
        eos = self.tokenizer.eos_token_id
        if eos in ids[begin:end]:
            return begin, ids.index(eos, begin) + 1
        if ids[end : end + 1] == [eos]:
            return begin, end + 1
        raise ValueError(
            f"{conversation.place}: the chat template does not end an answer with the tokenizer's EOS, "
            f"{self.tokenizer.eos_token!r}, so a model would not learn to stop; make what ends it the eos_token"
        )


def make_chat_encoder(
    prompt: str, tokenizer: Any, max_length: int, train_on: TrainOn, train_on_prompt: bool = False
) -> ChatEncoder:
    """Makes the encoder of a template's name.

    Args:
        prompt: the name; ``chat`` for the tokenizer's own template.
        tokenizer: see :class:`ChatEncoder`, as the rest.
        max_length: see there.
        train_on: see there.
        train_on_prompt: see there.

    Raises:
        ValueError: there is no such template, or the tokenizer has no chat template or no EOS token.
    """
    template = get_chat_template(prompt)
    if template is None:
        return TokenizerChatEncoder(tokenizer, max_length, train_on, train_on_prompt)
    return NamedChatEncoder(template, tokenizer, max_length, train_on, train_on_prompt)


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as chat templates take them; an input goes on a line below its instruction."""
    return [
        {"role": message.role, "content": message.content + (f"\n{message.input}" if message.input else "")}
        for message in messages
    ]

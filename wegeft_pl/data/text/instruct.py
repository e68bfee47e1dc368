"""Instruction following: conversations of one or many turns, the loss on what the assistant says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

from torch.utils.data import Dataset

from wegeft_pl.data.grouping import GroupedOrder
from wegeft_pl.data.order import BatchOrder
from wegeft_pl.data.rows import sha256
from wegeft_pl.data.sources import Split
from wegeft_pl.data.text.base import TextDataModule, check_least
from wegeft_pl.data.text.chat import ChatEncoder, TrainOn, make_chat_encoder
from wegeft_pl.data.text.chat_templates import get_chat_template
from wegeft_pl.data.text.collate import LossCollator, ScoreCollator, ScoredExample
from wegeft_pl.data.text.encode_split import Encoding
from wegeft_pl.data.text.messages import (
    Conversation,
    Layout,
    Message,
    StreamedConversations,
    read_conversations,
    take_conversation,
)
from wegeft_pl.data.text.packing import PackedCollator, PackedOrder, PackedRows
from wegeft_pl.data.text.prompted import Examples
from wegeft_pl.data.text.sources import find_files, load_hub_split
from wegeft_pl.data.text.split_counts import SplitCounts
from wegeft_pl.data.text.splits import hold_out
from wegeft_pl.data.text.token_cache import CACHE_DIR
from wegeft_pl.data.text.token_store import Chosen, facts_of
from wegeft_pl.data.text.tokenize import Tokenizer

Numbered = Sequence[tuple[int, Conversation]]


class InstructDataModule(TextDataModule):
    """Conversations in any common layout, formatted by a chat template, the loss on the assistant's turns.

    Layouts, by the columns of each row: ``alpaca`` (instruction, input, output, system), ``messages`` (role, content),
    ``sharegpt`` (conversations of from, value), ``prompt_completion`` (prompt and completion or response, or question
    and answer). In validation and test the last answer is generated; there is no score for it beside the loss: judging
    is AlpacaEval's and MT-Bench's, and the callbacks ``AlpacaEvalAnswers`` and ``MTBenchAnswers`` write what they read.

    Args:
        path: a folder with train, and perhaps val and test (.jsonl or .json); a single such file; null: the hub.
        tokenizer: hub id or folder of the tokenizer; null: the task's own.
        layout: how rows are laid out; auto: as their columns say.
        prompt: a chat template's name (alpaca, vicuna, llama2, chatml, plain), or chat for the tokenizer's own.
        train_on: the loss is on all of the assistant's turns or on the last one.
        max_length: most tokens of a conversation; longer ones are cut on the right, counted, and told of.
        train_on_prompt: whether the loss counts everything else too.
        val_size: rows held out of train for validation (seeded); 0: none, unless the folder has a val file.
        test_size: rows held out of train for test; 0: none, unless there is a test file.
        limit_train: keep the first rows of train only; null: all.
        limit_val: the same for validation.
        limit_test: the same for test.
        batch_size: training sequences per batch and process.
        eval_batch_size: validation and test sequences per batch and process; null: as ``batch_size``.
        num_workers: processes that collate batches; 0 is right nearly always.
        pad_to_multiple_of: round sequence lengths up to a multiple of this; null: no rounding.
        seed: seed of the training order and of the held-out rows.
        packing: put several training samples into one row of ``max_length`` tokens, each blind to the others.
        group_by_length: make training batches of samples of similar length.
        num_proc: processes that tokenise; null: this one, where a fast tokenizer has threads of its own.
        cache_dir: folder that keeps the tokens of 1,000 rows or more for the next run; null: none.
        streaming: read rows where they stand in the file and keep tokens in ``cache_dir`` alone, for .jsonl files
            larger than memory; batches are the same.
        hub: the data set on the hub.
        hub_train: its split to train on.
        hub_test: its split to test on; null: none.

    Raises:
        ValueError: a size is out of range, the template is unknown, or two options exclude each other.

    Source: METHOD.md sections 7 and 8.
    """

    def __init__(
        self,
        path: str | None = None,
        tokenizer: str | None = None,
        layout: Layout | Literal["auto"] = "auto",
        prompt: str = "alpaca",
        train_on: TrainOn = "all_turns",
        max_length: int = 1024,
        train_on_prompt: bool = False,
        val_size: int = 0,
        test_size: int = 0,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pad_to_multiple_of: int | None = None,
        seed: int = 42,
        packing: bool = False,
        group_by_length: bool = False,
        num_proc: int | None = None,
        cache_dir: str | None = CACHE_DIR,
        streaming: bool = False,
        hub: str = "HuggingFaceH4/ultrafeedback_binarized",
        hub_train: str = "train_sft",
        hub_test: str | None = "test_sft",
    ) -> None:
        super().__init__(path, tokenizer, batch_size, eval_batch_size, num_workers, pad_to_multiple_of, seed)
        get_chat_template(prompt)  # a misspelt name is told before anything is read
        if packing and group_by_length:
            raise ValueError(
                "data.packing leaves no padding for data.group_by_length to save; set one of them to false"
            )
        if streaming and path is None:
            raise ValueError("data.streaming reads local .jsonl files, and data.path is null; give a file or a folder")
        self.layout, self.prompt = layout, prompt
        self.train_on: TrainOn = train_on
        self.max_length, self.train_on_prompt = max_length, train_on_prompt
        self.packing, self.group_by_length = packing, group_by_length
        self.encoding = Encoding(num_proc, cache_dir, streaming)
        self.sizes: dict[Split, int] = {"val": val_size, "test": test_size}
        self.limits: dict[Split, int | None] = {"train": limit_train, "val": limit_val, "test": limit_test}
        self.hub = hub
        self.hub_splits: dict[Split, str] = {"train": hub_train}
        if hub_test is not None:
            self.hub_splits["test"] = hub_test
        check_least("max_length", max_length, 1)
        for split, size in self.sizes.items():
            check_least(f"{split}_size", size, 0)
        for split, limit in self.limits.items():
            check_least(f"limit_{split}", limit, 1)
        self._rows: dict[Split, Numbered] | None = None
        self._sha256: dict[str, str] = {}
        self._counts = SplitCounts(max_length)

    def prepare_data(self) -> None:
        """Fetches the hub's copy once per machine, before all processes read it."""
        if self.path is None:
            self._read()

    def build_split(self, split: Split, tokenizer: Tokenizer) -> Dataset | None:
        """Reads, checks and encodes one split; see the class.

        Raises:
            ValueError: a row is faulty, or one to train on ends without an answer; its place is named.
        """
        if self._rows is None:
            self._rows = self._read()
        rows = self._rows[split][: self.limits[split]]
        if not rows:
            return None
        encoder = self.make_encoder(tokenizer)
        if split == "train":
            encoded = self.encoding(encoder, partial(_answered, rows), len(rows), split)
            numbers = self._counts.count(split, encoded)
            kept, lengths = Chosen(encoded, numbers), facts_of(encoded).lengths[numbers].tolist()
            return PackedRows(kept, lengths, self.max_length, self.seed) if self.packing else Examples(kept, lengths)
        encoded = self.encoding(encoder, lambda: (conversation for _, conversation in rows), len(rows), split)
        examples = []
        for (number, conversation), one in zip(rows, encoded, strict=True):
            messages = conversation.messages
            asked, reference = (messages[:-1], messages[-1].content) if conversation.is_answered else (messages, "")
            examples.append(ScoredExample(number, encoder.prompt_text(asked), reference, one))
        return self.sorted_examples(split, examples)

    def sorted_examples(self, split: Split, examples: list[ScoredExample]) -> Dataset:
        """Counts the examples of a split that is evaluated and serves them longest prompt first."""
        self._counts.count(split, [example.encoded for example in examples])
        return Examples(sorted(examples, key=lambda example: -example.encoded.prompt_length))

    def make_encoder(self, tokenizer: Tokenizer) -> ChatEncoder:
        """Makes the encoder of the template that is asked for."""
        return make_chat_encoder(self.prompt, tokenizer, self.max_length, self.train_on, self.train_on_prompt)

    def make_order(self, dataset: Any, batch_size: int, shuffle: bool) -> BatchOrder:
        """Makes the order of a split: seeded in training, by packed rows or by length where asked for."""
        rest = (batch_size, shuffle, self.seed, *self.shares())
        if isinstance(dataset, PackedRows):
            return PackedOrder(dataset, *rest)
        if self.group_by_length and shuffle:
            return GroupedOrder(dataset.lengths, *rest)
        return super().make_order(dataset, batch_size, shuffle)

    @property
    def packed_length(self) -> int:
        """Tokens of a packed row."""
        return self.max_length

    def make_collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Makes the collator: loss tensors for train, and prompts and references beside them for the rest."""
        training = PackedCollator if self.packing else LossCollator
        return (training if split == "train" else ScoreCollator)(self.pad_id, self.pad_to_multiple_of)

    def format_prompt(self, questions: Sequence[str], answers: Sequence[str]) -> tuple[str, list[int]]:
        """Formats a conversation that waits for its next answer; what the answer-writing callbacks ask.

        Args:
            questions: the user's turns so far.
            answers: the assistant's, one fewer.

        Returns:
            The prompt's text and its ids.
        """
        turns = [Message("user", questions[0])]
        for answer, question in zip(answers, questions[1:], strict=True):
            turns += [Message("assistant", answer), Message("user", question)]
        return self.make_encoder(self.resolve_tokenizer()).prompt(turns)

    def cut_answer(self, text: str) -> str:
        """Cuts a generated answer where it is over."""
        return self.make_encoder(self.resolve_tokenizer()).cut(text)

    def describe(self) -> dict[str, object]:
        """Returns name, path, file hashes, template, and counts by split, in plain JSON types."""
        return {
            "name": type(self).__name__,
            "path": self.path if self.path is not None else self.hub,
            "sha256": dict(self._sha256),
            "layout": self.layout,
            "prompt": self.prompt,
            "train_on": self.train_on,
            "max_length": self.max_length,
            "train_on_prompt": self.train_on_prompt,
            "seed": self.seed,
            # Only where it is on, as every text module has it.
            **({"packing": True} if self.packing else {}),
            **({"group_by_length": True} if self.group_by_length else {}),
            **{name: dict(counts) for name, counts in self._counts.counts.items()},
        }

    def _read(self) -> dict[Split, Numbered]:
        found: dict[Split, Numbered] = {}
        if self.path is None:
            for split, name in self.hub_splits.items():
                rows = load_hub_split(self.hub, None, name)
                places = ((row, f"{self.hub} {name}: row {number}") for number, row in enumerate(rows, 1))
                found[split] = [(n, take_conversation(row, self.layout, at)) for n, (row, at) in enumerate(places)]
        else:
            for split, file in find_files(self.path).items():
                if self.encoding.streaming:
                    found[split] = streamed = StreamedConversations(file, self.layout)
                    self._sha256[file.name] = streamed.sha256
                else:
                    found[split] = list(enumerate(read_conversations(file, self.layout)))
                    self._sha256[file.name] = sha256(file)
        # Which rows are held out depends on their number alone, whatever they hold.
        name = self.path if self.path is not None else self.hub
        held = hold_out(cast("Mapping[Split, Any]", found), self.sizes["val"], self.sizes["test"], self.seed, name)
        return cast("dict[Split, Numbered]", held)


def _answered(rows: Numbered) -> Iterator[Conversation]:
    """The conversations of training rows, each of which must end with an answer."""
    for _, conversation in rows:
        if not conversation.is_answered:
            raise ValueError(f"{conversation.place}: a conversation to train on must end with an answer")
        yield conversation

"""Predictions on disk: every rank writes its own part as it goes, rank 0 joins the parts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from rich.text import Text

from wegeft_pl.adapter.storage import write_atomically
from wegeft_pl.tasks import Prediction


class PredictionFile:
    """A JSON-lines file of predictions that is being written.

    Written line by line, so that a run that dies in the middle of a long test leaves what it had.

    Args:
        path: the file to end up with; parts lie beside it until :meth:`join`.
        rank: of this process.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self.rank = rank
        # What a killed run left under this name is not this run's.
        self._part(rank).unlink(missing_ok=True)

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Appends to this rank's part."""
        lines = [json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n" for prediction in predictions]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._part(self.rank), "a", encoding="utf-8") as part:
                part.writelines(lines)

    def join(self, trainer: Trainer) -> list[dict[str, Any]]:
        """Puts all ranks' parts into one file, in the order of ids, each id once (samplers repeat some).

        All ranks must call it.

        Returns:
            The predictions on rank 0 and an empty list elsewhere; no file is left where there are none.
        """
        trainer.strategy.barrier("predictions written")
        rows: dict[int, dict[str, Any]] = {}
        if trainer.is_global_zero:
            parts = [part for rank in range(trainer.world_size) if (part := self._part(rank)).exists()]
            for part in parts:
                with open(part, encoding="utf-8") as lines:
                    for line in lines:
                        row = json.loads(line)
                        rows.setdefault(row["id"], row)
            if rows:
                text = "".join(json.dumps(rows[key], ensure_ascii=False) + "\n" for key in sorted(rows))
                write_atomically(self.path, lambda temporary: _write(temporary, text))
            for part in parts:
                part.unlink()
        trainer.strategy.barrier("predictions joined")
        return [rows[key] for key in sorted(rows)]

    def _part(self, rank: int) -> Path:
        return self.path.with_name(f".{self.path.name}.rank{rank}")


def sample_text(row: dict[str, Any], width: int = 300) -> Text:
    """Shows one prediction on the console: prompt, answer, reference and verdict.

    Args:
        row: :meth:`Prediction.to_dict`'s result.
        width: characters of prompt and output that are shown; long prompts lose their beginning.
    """
    text = Text()
    prompt = row["prompt"].strip()
    text.append((prompt if len(prompt) <= width else "... " + prompt[-width:]) + "\n", style="dim")
    output = row["output"].strip()
    text.append((output if len(output) <= width else output[:width] + " ...") + "\n")
    text.append(f"expected {row['reference']}", style="dim")
    for name, correct in row["correct"].items():
        text.append(f"  {name}: {'right' if correct else 'wrong'}", style="green" if correct else "red")
    return text


def samples_markdown(rows: list[dict[str, Any]]) -> str:
    """Shows predictions in TensorBoard."""
    blocks = []
    for row in rows:
        verdict = ", ".join(f"{name}: {'right' if ok else 'wrong'}" for name, ok in row["correct"].items())
        parts = [f"**{row['id']}** expected `{row['reference']}` {verdict}", _code(row["prompt"]), _code(row["output"])]
        blocks.append("\n\n".join(parts))
    return "\n\n---\n\n".join(blocks)


def _code(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

"""Many texts tokenised: in other processes if asked for, and with a progress bar where someone looks on."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wegeft_pl.data.text.tokenize import EncodedExample, Sample, SplitEncoder, chunks

#: Fewer samples than this are done before a bar could be read.
BAR_FROM = 5000
#: Chunks that wait for each process: enough to keep it busy, few enough to hold no file in memory.
_AHEAD = 2


def encode_all(
    encoder: SplitEncoder[Sample], samples: Iterable[Sample], total: int, num_proc: int | None, label: str
) -> Iterator[EncodedExample]:
    """Encodes samples in their order; the result does not depend on the number of processes.

    Args:
        encoder: with its tokenizer, which other processes get a copy of.
        samples: read as they are needed.
        total: how many they are, for the bar.
        num_proc: processes beside this one; None: this one, where a fast tokenizer has threads of its own.
        label: what the bar is called, such as the split.

    Raises:
        ValueError: a sample cannot be encoded; names its place.
    """
    encoded = encoder.encode_many(samples) if num_proc is None else _in_processes(encoder, samples, num_proc)
    console = Console(stderr=True)
    if total < BAR_FROM or not _is_watched(console):
        yield from encoded
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(encoded, total=total, description=f"tokenising {label}")


@rank_zero_only
def _is_watched(console: Console) -> bool:
    """Whether a person sees this; None, and so false, on all processes but the first."""
    return console.is_terminal


def _in_processes(encoder: SplitEncoder[Sample], samples: Iterable[Sample], num_proc: int) -> Iterator[EncodedExample]:
    remaining = chunks(samples)
    # Spawned, not forked: this process has threads, and perhaps a device, that a copy of it could not use.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_proc, mp_context=context, initializer=_take, initargs=(encoder,)) as pool:
        running: deque[Future[list[EncodedExample]]] = deque()
        while True:
            while len(running) < _AHEAD * num_proc and (chunk := next(remaining, None)):
                running.append(pool.submit(_encode_chunk, chunk))
            if not running:
                return
            yield from running.popleft().result()


#: The encoder of a process that encodes for another one.
_own: list[SplitEncoder[Any]] = []


def _take(encoder: SplitEncoder[Any]) -> None:
    _own[:] = [encoder]


def _encode_chunk(chunk: list[Any]) -> list[EncodedExample]:
    return list(_own[0].encode_many(chunk))

"""An error of one process made known to all, so that they stop together instead of waiting for one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Bytes of a message that are passed on.
LENGTH = 512


class SharedErrors:
    """Keeps what went wrong here until all processes are asked.

    Args:
        what: how the error that all of them raise begins.
        device: of the collectives.
    """

    def __init__(self, what: str, device: torch.device) -> None:
        self.what, self.device = what, device
        #: The first error of this process, or None.
        self.own: Exception | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keeps an error that the block raises, whatever its kind, for :meth:`agree`."""
        try:
            yield
        except Exception as error:
            self.own = self.own or error

    def agree(self) -> None:
        """Finds out whether any process had an error; a collective.

        Raises:
            OSError: one had: the first one's message, the same on all.
        """
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        first = torch.tensor(size if self.own is None else rank, device=self.device)
        torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        source = int(first)
        if source == size:
            return
        # Bytes and not objects: those would be pickled.
        text = f"{type(self.own).__name__}: {self.own}".encode()[:LENGTH] if source == rank else b""
        message = torch.frombuffer(bytearray(text.ljust(LENGTH, b"\0")), dtype=torch.uint8).to(self.device)
        torch.distributed.broadcast(message, source)
        cause = bytes(message.tolist()).rstrip(b"\0").decode(errors="replace")
        raise OSError(f"{self.what}: process {source} of {size}: {cause}") from self.own

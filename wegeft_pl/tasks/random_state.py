"""The states of all random generators of a run: in every checkpoint, of every process, as plain tensors."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

#: One process's states by generator; what belongs to no generator of its own lies in "gauss".
States = dict[str, Tensor]


def capture(device: torch.device) -> States:
    """Reads the states of torch, Python and NumPy, and of CUDA where this process trains on it.

    Args:
        device: the process's device.

    Returns:
        ``torch`` (5056,) uint8, ``python`` (626,) int64, ``numpy`` (626,) int64, ``gauss`` (2,) float64 (the second
        normal number that Python and NumPy keep in hand), and ``cuda`` (16,) uint8.
    """
    states = _as_tensors(torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False))
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(states: States, device: torch.device) -> None:
    """Sets all generators; one that was on no device of this kind before starts from torch's state.

    Args:
        states: of :func:`capture`.
        device: the process's device.
    """
    python, numpy, gauss = states["python"].tolist(), states["numpy"].tolist(), states["gauss"].tolist()
    torch.set_rng_state(states["torch"].clone())  # a view into a larger tensor makes torch read elsewhere, and crash
    random.setstate((3, tuple(python[:-1]), gauss[0] if python[-1] else None))
    key = {"key": np.array(numpy[:-2], dtype=np.uint32), "pos": numpy[-2]}
    np.random.set_state({"bit_generator": "MT19937", "state": key, "has_gauss": numpy[-1], "gauss": gauss[1]})
    if device.type == "cuda":
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"].clone(), device)
        else:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_seed(states, 0))


def derive(states: States, number: int) -> States:
    """Makes the states of a process that there was not from those of one that there was, the same every time.

    Args:
        states: of :func:`capture`.
        number: the new process's rank.
    """
    seed = _seed(states, number)
    derived = _as_tensors(
        torch.Generator().manual_seed(seed).get_state(),
        random.Random(seed).getstate(),
        np.random.RandomState(seed % 2**32).get_state(legacy=False),
    )
    if "cuda" in states:  # states are gathered by name, so that all processes need the same ones
        derived["cuda"] = torch.tensor([seed, 0], dtype=torch.int64).view(torch.uint8)  # seed and offset
    return derived


class RandomStates:
    """What a task keeps of random states: those to restore, and those set aside while something else draws.

    Validation, and whatever it samples, must not move the random numbers of training: a run resumed behind it, or one
    that validates less often, would train otherwise.
    """

    def __init__(self) -> None:
        self._to_restore: States | None = None
        self._aside: States | None = None

    def save(self, trainer: Trainer) -> list[States]:
        """Collects the training states of all processes by rank; a collective."""
        device = trainer.strategy.root_device
        own = self._to_restore or self._aside or capture(device)
        if trainer.world_size == 1:
            return [own]
        gathered = {name: trainer.strategy.all_gather(tensor.to(device)).cpu() for name, tensor in own.items()}
        return [{name: tensor[rank].clone() for name, tensor in gathered.items()} for rank in range(trainer.world_size)]

    def load(self, saved: list[States], trainer: Trainer) -> None:
        """Keeps this process's states for :meth:`begin`.

        Args:
            saved: of :meth:`save`; of another number of processes, new ones get derived states.
            trainer: which process this is.
        """
        rank, processes = trainer.global_rank, trainer.world_size
        self._to_restore = saved[rank] if rank < len(saved) else derive(saved[rank % len(saved)], rank)
        if processes != len(saved):
            rank_zero_info(
                f"random states of {len(saved)} processes go on in {processes}: each known process has its own, new "
                "ones derived ones, so that dropout differs from a run that never stopped"
            )

    def begin(self, device: torch.device) -> None:
        """Restores what was loaded, behind everything that draws before the first batch."""
        if self._to_restore is not None:
            restore(self._to_restore, device)
            self._to_restore = None

    def set_aside(self, device: torch.device) -> None:
        """Keeps the states of training while something else may draw."""
        self._aside = capture(device)

    def take_back(self, device: torch.device) -> None:
        """Restores what was set aside."""
        if self._aside is not None:
            restore(self._aside, device)
            self._aside = None


def _as_tensors(torch_state: Tensor, python: tuple[Any, ...], numpy: Any) -> States:
    _, words, gauss = python
    inner = numpy["state"]
    return {
        "torch": torch_state,
        "python": torch.tensor([*words, int(gauss is not None)], dtype=torch.int64),
        "numpy": torch.tensor([*inner["key"].tolist(), inner["pos"], numpy["has_gauss"]], dtype=torch.int64),
        "gauss": torch.tensor([gauss or 0.0, numpy["gauss"]], dtype=torch.float64),
    }


def _seed(states: States, number: int) -> int:
    digest = hashlib.sha256(states["torch"].cpu().numpy().tobytes() + number.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little") >> 1

"""Random states: what is captured is what is drawn next, of every process, and validation leaves no trace."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wegeft_pl.tasks.random_state import RandomStates, States, capture, derive, restore

CPU = torch.device("cpu")


def draw() -> list[float]:
    """Two of each, so that the second normal number that is kept in hand shows."""
    numbers = [float(torch.rand(())), float(torch.randn(())), random.random(), random.gauss(0, 1), np.random.rand()]
    return [*numbers, float(np.random.randn()), float(np.random.randint(1000))]


def trainer(rank: int = 0, processes: int = 1, gathered: Any = None) -> Any:
    strategy = SimpleNamespace(root_device=CPU, all_gather=gathered)
    return SimpleNamespace(global_rank=rank, world_size=processes, strategy=strategy)


@pytest.mark.parametrize("warm", [0, 1, 2])
def test_what_is_captured_is_what_is_drawn_next(warm: int, tmp_path: Path) -> None:
    for _ in range(warm):
        random.gauss(0, 1)
        np.random.randn()
    states = capture(CPU)
    torch.save(states, tmp_path / "states")
    expected = [draw() for _ in range(3)]
    restore(torch.load(tmp_path / "states", weights_only=True), CPU)
    assert [draw() for _ in range(3)] == expected


def test_new_processes_get_states_of_their_own_the_same_every_time() -> None:
    states = capture(CPU)
    before = draw()
    restore(states, CPU)
    derived = [derive(states, number) for number in (1, 2, 1)]
    assert draw() == before  # deriving draws nothing
    drawn = []
    for each in derived:
        restore(each, CPU)
        drawn.append(draw())
    assert drawn[0] == drawn[2]
    assert drawn[0] != drawn[1]
    assert before not in drawn


def test_states_of_all_processes_by_rank() -> None:
    other = {name: tensor + 1 for name, tensor in capture(CPU).items()}

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        name = next(name for name, value in capture(CPU).items() if torch.equal(value, tensor))
        return torch.stack([tensor, other[name]])

    saved = RandomStates().save(trainer(0, 2, gathered))
    assert [torch.equal(saved[rank]["torch"], states["torch"]) for rank, states in enumerate((capture(CPU), other))]
    assert torch.equal(saved[1]["numpy"], other["numpy"])


@pytest.mark.parametrize(("rank", "processes"), [(0, 2), (1, 2), (0, 1)])
def test_each_process_goes_on_with_its_own(rank: int, processes: int, caplog: pytest.LogCaptureFixture) -> None:
    saved: list[States] = []
    expected = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        saved.append(capture(CPU))
        expected.append(draw())
    states = RandomStates()
    with caplog.at_level("INFO"):
        states.load(saved, trainer(rank, processes))
    draw()
    states.begin(CPU)
    assert draw() == expected[rank]
    assert ("random states of 2 processes go on in 1" in caplog.text) == (processes == 1)
    draw()
    states.begin(CPU)
    assert draw() != expected[rank]  # only once


def test_a_process_that_there_was_not_gets_derived_ones() -> None:
    saved = [capture(CPU)]
    states = RandomStates()
    states.load(saved, trainer(3, 4))
    states.begin(CPU)
    drawn = draw()
    restore(derive(saved[0], 3), CPU)
    assert draw() == drawn


def test_derived_states_are_of_the_same_generators() -> None:
    """They are gathered by name: a process with one generator less would leave the others waiting."""
    saved = capture(CPU) | {"cuda": torch.zeros(16, dtype=torch.uint8)}
    derived = derive(saved, 1)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in derived.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in saved.items()
    }
    assert not torch.equal(derived["cuda"], derive(saved, 2)["cuda"])
    assert "cuda" not in derive(capture(CPU), 1)


def test_what_validation_draws_is_not_drawn_in_training() -> None:
    states = RandomStates()
    before = capture(CPU)
    states.set_aside(CPU)
    draw()
    (saved,) = states.save(trainer())
    assert all(torch.equal(saved[name], before[name]) for name in before)
    states.take_back(CPU)
    after = capture(CPU)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_checkpoint_written_before_the_first_batch_of_a_resumed_run_keeps_what_it_was_given() -> None:
    given = capture(CPU)
    draw()
    states = RandomStates()
    states.load([given], trainer())
    (saved,) = states.save(trainer())
    assert all(torch.equal(saved[name], given[name]) for name in given)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_too() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    states = capture(device)
    expected = torch.rand(3, device=device)
    restore(states, device)
    assert torch.equal(torch.rand(3, device=device), expected)
    del states["cuda"]  # of a run that went on a CPU before
    drawn = []
    for _ in range(2):
        restore(states, device)
        drawn.append(torch.rand(3, device=device))
    assert torch.equal(drawn[0], drawn[1])


def test_states_that_are_views_are_restored() -> None:
    """What a file of two processes holds for the second one: torch 2.15 crashes on a state with a storage offset."""
    states = capture(torch.device("cpu"))
    wanted = torch.rand(3)
    restore({name: torch.stack([tensor, tensor])[1] for name, tensor in states.items()}, torch.device("cpu"))
    assert torch.equal(torch.rand(3), wanted)

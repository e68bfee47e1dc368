"""What every data module is: splits built once, loaders over them, and the place in training to resume at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from wegeft_pl.data.loader import EpochLoader, NoBatches
from wegeft_pl.data.order import BatchOrder
from wegeft_pl.data.place import check_same_data, other_batch, training_data
from wegeft_pl.data.sources import Split

#: The splits that each of Lightning's stages needs, its own first.
STAGES: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


class FineTuneDataModule(LightningDataModule, ABC):
    """Builds the splits that a stage needs, once, and serves them in seeded batches that resume exactly.

    A subclass says how a split is built and batched.

    Args:
        path: the data: a local file or folder, or ``bundled:NAME``; see the subclass for null.
        batch_size: training rows per batch and process.
        eval_batch_size: validation and test rows per batch and process; null: as ``batch_size``.
        num_workers: processes that make batches; null: the subclass decides for each split.
        seed: seed of the training order and of rows held out by size.

    Raises:
        ValueError: a size is below its least value.
    """

    def __init__(
        self, path: str | None, batch_size: int, eval_batch_size: int | None, num_workers: int | None, seed: int
    ) -> None:
        super().__init__()
        self.path = path
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        check_least("batch_size", batch_size, 1)
        check_least("eval_batch_size", eval_batch_size, 1)
        check_least("num_workers", num_workers, 0)
        self._splits: dict[Split, Dataset | None] = {}
        self._train_loader: EpochLoader | None = None
        self._position: dict[str, Any] | None = None

    @abstractmethod
    def make_split(self, split: Split) -> Dataset | None:
        """Builds the dataset of one split; None when the data has no such split."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Returns what a run's record says of the data, in plain JSON types; counts cover the splits built so far."""

    @abstractmethod
    def make_collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Makes the function that turns a list of the split's examples into a batch."""

    @abstractmethod
    def make_blank(self, batch: Any) -> Any:
        """Makes a batch that only keeps a process in step with the others count for nothing."""

    @abstractmethod
    def how_to_add(self, split: Split) -> str:
        """Words the way out where the data has no rows of a split that is needed."""

    def make_order(self, dataset: Any, batch_size: int, shuffle: bool) -> BatchOrder:
        """Makes the order of a split: seeded, another one each epoch, shared out among processes."""
        return BatchOrder(len(dataset), batch_size, shuffle, self.seed, *self.shares())

    def workers(self, dataset: Dataset) -> int:
        """Returns how many processes make the batches of a dataset; override to choose where the user has not."""
        return self.num_workers or 0

    def setup(self, stage: str | None = None) -> None:
        """Builds the splits of a stage that are not built yet; null: all of them.

        Raises:
            ValueError: the stage's own split does not exist.
        """
        for split in ("train", "val", "test") if stage is None else STAGES[stage]:
            if split not in self._splits:
                self._splits[split] = self.make_split(split)
        needed = None if stage is None else STAGES[stage][0]
        if needed is not None and self._splits[needed] is None:
            raise ValueError(
                f"{TrainerFn(stage).value} needs {needed} rows, and {self.path or 'the data set'} has none; "
                + self.how_to_add(needed)
            )

    def train_dataloader(self) -> EpochLoader:
        """Returns the shuffled training batches of this process."""
        dataset = self._dataset("train")
        assert dataset is not None
        # overfit_batches asks for the same batches every epoch.
        shuffle = self.trainer is None or not self.trainer.overfit_batches  # type: ignore[attr-defined]
        self._train_loader = self._loader("train", dataset, self.batch_size, shuffle)
        if self._position is not None:
            self._train_loader.load_state_dict(self._position)
            self._position = None  # a later fit of the same module starts at its own place
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the training data, and what tells this data and its order from another.

        Lightning restores the loader's own state too late where the schedule asks for the number of steps: the loader
        is set up for that before the loops are restored. The data module's state comes before either.
        """
        if self._train_loader is None:
            return {}
        return {**self._train_loader.state_dict(), "data": training_data(self.describe())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the place for the next training loader; a checkpoint that is only tested has no place to resume at.

        Raises:
            ValueError: the checkpoint was trained on other data, or by an earlier version of this package.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        check_same_data(state_dict, self.describe())
        self._position = dict(state_dict)
        if self._train_loader is not None:  # sharded strategies restore after the optimiser's setup asked for it
            self._train_loader.load_state_dict(self._position)
        note = other_batch(state_dict, self.batch_size * self.shares()[0], len(self._dataset("train")))  # type: ignore[arg-type]
        if note is not None:
            rank_zero_info(note)

    def preview(self, num_samples: int) -> dict[str, Any]:
        """Returns what there is to see of the built splits, in plain JSON types; subclasses add what they know.

        Args:
            num_samples: how many samples to show where they can be shown.
        """
        built = {split: dataset for split, dataset in self._splits.items() if dataset is not None}
        facts: dict[str, Any] = {"data": self.describe(), "batch": {}}
        if built:
            split, dataset = next(iter(built.items()))
            keys = self.make_order(dataset, self.batch_size, False).batches()[0]
            batch = self.make_collate(split)([dataset[key] for key in keys])
            facts["batch"] = {name: batch_text(value) for name, value in batch.items()}
        return facts

    def val_dataloader(self) -> EpochLoader | NoBatches:
        """Returns the validation batches of this process; none without validation rows."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> EpochLoader | NoBatches:
        """Returns the test batches of this process; none without test rows."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> EpochLoader | NoBatches:
        """Returns the test batches, which are what predictions are written for."""
        return self._eval_dataloader("test")

    def shares(self) -> tuple[int, int]:
        """Returns among how many processes data is shared out, and which of them this one is."""
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (1, 0) if kwargs is None else (kwargs["num_replicas"], kwargs["rank"])

    def _eval_dataloader(self, split: Split) -> EpochLoader | NoBatches:
        dataset = self._dataset(split)
        if dataset is None:
            return NoBatches()
        return self._loader(split, dataset, self.eval_batch_size, shuffle=False)

    def _loader(self, split: Split, dataset: Dataset, batch_size: int, shuffle: bool) -> EpochLoader:
        order = self.make_order(dataset, batch_size, shuffle)
        return EpochLoader(dataset, order, self.make_collate(split), self.workers(dataset), self.make_blank)

    def _dataset(self, split: Split) -> Dataset | None:
        if split not in self._splits:
            raise ValueError(f"the {split} split is not built; call setup() first")
        return self._splits[split]


def batch_text(value: Any) -> str:
    """Says what one part of a batch is.

    Example:
        >>> import torch
        >>> batch_text(torch.zeros(2, 3)), batch_text(["a", "b"])
        ('float32 (2, 3)', 'list of 2')
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"list of {len(value)}" if isinstance(value, list) else type(value).__name__


def check_least(name: str, value: float | None, least: float) -> None:
    """Refuses a value below its least one; None passes.

    Raises:
        ValueError: ``value`` is below ``least``.
    """
    if value is not None and value < least:
        raise ValueError(f"data.{name} must be at least {least}, got {value}")

"""What can be set: the sections of a recipe, and the options that only the command line has."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer

from wegeft_pl.cli.explain import OWN_SECTIONS
from wegeft_pl.tasks import AdapterCallback, FineTuneTask, Schedule

#: The same as FineTuneTask's own default (a test compares them), here with a class that `--optimizer.lr` can refer to.
DEFAULT_OPTIMIZER = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2e-4, "weight_decay": 0.0}}

#: Arguments of the Trainer's methods that a recipe's sections or an option of our own take the place of.
_NOT_OPTIONS: set[str | int] = {
    "model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", "ckpt_path"
}  # fmt: skip


def add_sections(parser: LightningArgumentParser) -> None:
    """Adds the sections of a recipe besides seed_everything, which Lightning adds.

    The class sections take any class of their type by class path, and its options without ``init_args``.
    """
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_subclass_arguments(FineTuneTask, "model", fail_untyped=False, required=True, skip=OWN_SECTIONS)
    parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False, required=True)
    parser.add_subclass_arguments(AdapterCallback, "adapter", fail_untyped=False, required=False)
    parser.add_subclass_arguments(
        (Optimizer,), "optimizer", instantiate=False, fail_untyped=False, required=False, skip={"params"}
    )
    parser.set_defaults({"optimizer": DEFAULT_OPTIMIZER})
    parser.add_subclass_arguments(Schedule, "lr_scheduler", fail_untyped=False, required=False)


def add_run_options(parser: LightningArgumentParser, command: str) -> list[str]:
    """Adds the options of a run.

    Args:
        parser: the parser of the command.
        command: fit, validate, test or predict.

    Returns:
        The names of those that the Trainer's method of this command takes.
    """
    parser.add_argument(
        "--run_dir",
        type=str | None,
        default=None,
        metavar="DIR",
        help="Folder for everything the run writes. Default: the next free runs/RECIPE/version_N.",
    )
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        metavar="FILE",
        help="Checkpoint to go on from; `last` is the newest one of the run folder.",
    )
    if command != "fit":
        parser.add_argument(
            "--adapter_path", type=str | None, default=None, metavar="DIR", help="Saved adapter to put on the model."
        )
    return parser.add_method_arguments(Trainer, command, skip=_NOT_OPTIONS)

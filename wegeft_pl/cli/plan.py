"""``wegeft_pl plan``: parses all of a recipe, makes only the task and the adapter, and hands them to the counting."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from wegeft_pl.cli.plan_report import run_plan
from wegeft_pl.cli.recipe import RecipeCLI


class PlanCLI(RecipeCLI):
    """A recipe of which data and trainer stay plain settings, so that neither data nor devices are needed."""

    def __init__(self, args: list[str]) -> None:
        super().__init__("plan", args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--json``."""
        parser.add_argument("--json", action="store_true", help="Print the plan as JSON, with the words of run.json.")

    def before_instantiate_classes(self) -> None:
        """Nothing to check: a plan writes no folder."""

    def instantiate_classes(self) -> None:
        """Makes the task, its optimiser and schedule, and the adapter callback."""
        self.config_init = self.task_alone()
        self.model = self._get(self.config_init, "model")
        self.adapter = self._get(self.config_init, "adapter")
        self.data_config: dict[str, Any] = self.config["data"].as_dict()
        self.trainer_config: dict[str, Any] = self.config["trainer"].as_dict()


def main(argv: list[str]) -> int:
    """Runs ``wegeft_pl plan``.

    Args:
        argv: the arguments after ``plan``.

    Returns:
        The exit code.
    """
    cli = PlanCLI(argv)
    run_plan(cli.model, cli.adapter, cli.data_config, cli.trainer_config, as_json=cli.config["json"])
    return 0

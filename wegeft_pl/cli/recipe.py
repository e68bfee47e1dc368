"""A recipe as a run: Lightning's command line with this project's sections."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from jsonargparse._util import import_object
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import RunningStage

from wegeft_pl.cli.arguments import recipes_first
from wegeft_pl.cli.checkpoint_file import FoundCheckpoint, check_checkpoint, newest_checkpoint
from wegeft_pl.cli.commands import COMMANDS
from wegeft_pl.cli.default_callbacks import CHECKPOINTING, NEED_ADAPTER, with_defaults
from wegeft_pl.cli.failure import UsageError, is_expected
from wegeft_pl.cli.first_cause import FirstCause, SaidElsewhereError, clear, is_lost_connection, observe_children
from wegeft_pl.cli.folder_lock import hold
from wegeft_pl.cli.launcher import ObservedLauncher
from wegeft_pl.cli.out_of_memory import MemoryRanOutError, Plan, Recipe, Stage, batch_loops, explain, is_out_of_memory
from wegeft_pl.cli.parser import RecipeAction, RecipeParser
from wegeft_pl.cli.plan_report import estimate_recipe
from wegeft_pl.cli.quiet import silence_chatter
from wegeft_pl.cli.run_folder import (
    choose_run_folder,
    is_first_rank,
    last_of_recipe,
    recipe_name,
    remove_if_unused,
    write_config,
)
from wegeft_pl.cli.sections import add_run_options, add_sections
from wegeft_pl.cli.share_folder import ShareRunFolder
from wegeft_pl.cli.strategy_name import check_strategy_name
from wegeft_pl.tasks import ClassificationTask, FineTuneTask
from wegeft_pl.version import __version__

DEFAULT_SEED = 42

#: Imported so that a recipe can name their classes without the path; by name, because the package imports no callbacks.
_ROOMS = ("wegeft_pl.callbacks", "wegeft_pl.data")

_CLASS_HELP = "The options of a class: --model.help CLASS, --data.help CLASS, --adapter.help CLASS."


class RecipeCLI(LightningCLI):
    """Parses a recipe and its overrides, and makes the task, the data and the trainer.

    One instance serves one command (Lightning's own would build four parsers). Checkpoints never change the recipe, so
    Lightning's reading of their hyper-parameters is off.

    Args:
        command: fit, validate, test, predict, or one that only needs part of a recipe.
        args: the arguments after the command.

    Raises:
        UsageError: if the arguments or the recipe are wrong.
    """

    def __init__(self, command: str, args: list[str]) -> None:
        silence_chatter()
        for room in _ROOMS:
            import_module(room)
        self.command = command
        # jsonargparse changes directory while it reads a recipe.
        self.start = Path.cwd()
        self.arguments = recipes_first(args)
        super().__init__(
            model_class=FineTuneTask,
            datamodule_class=LightningDataModule,
            save_config_callback=None,
            seed_everything_default=DEFAULT_SEED,
            parser_class=RecipeParser,
            parser_kwargs={
                "prog": f"wegeft_pl {command}",
                "usage": f"wegeft_pl {command} --config NAME [--config NAME ...] [--SECTION.OPTION VALUE ...]",
                "description": f"{COMMANDS[command]}. {_CLASS_HELP}",
                "dump_header": [f"written by wegeft_pl {__version__}"],
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Makes the parser, with recipes by name."""
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=RecipeAction,
            metavar="NAME",
            help="Recipe: a path or the name of a shipped one. May be repeated; later ones win.",
        )
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections of a recipe."""
        add_sections(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of the command line that are not part of a recipe."""
        self.method_arguments = add_run_options(parser, self.command)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the arguments this instance was made with."""
        self.config = parser.parse_args(self.arguments)
        # `data: {}` and `model: {}` mean the base classes, which do nothing.
        for section, base, example in (
            ("data", LightningDataModule, "wegeft_pl.data.GSM8KDataModule"),
            ("model", FineTuneTask, "wegeft_pl.tasks.CausalLMTask"),
        ):
            if self.config[section].class_path.endswith(f".{base.__name__}"):
                raise UsageError(f"{section}: no class named; set {section}.class_path, such as {example}")

    def before_instantiate_classes(self) -> None:
        """Checks everything that needs no model, so that a mistake costs no waiting."""
        if self.config.trainer.default_root_dir is not None:
            raise UsageError("trainer.default_root_dir: the run folder takes its place; use --run_dir DIR")
        check_strategy_name(self.config.trainer.strategy)
        adapter_path = self.config.get("adapter_path")
        if adapter_path is not None and not self.at_start(adapter_path).is_dir():
            raise UsageError(f"no adapter folder {adapter_path!r}; give the adapter/ folder of a run")
        assert isinstance(self.parser, RecipeParser)
        recipes = [source.path for source in self.parser.sources]
        run_dir, ckpt_path = last_of_recipe(self.command, self.config.run_dir, self.config.ckpt_path, recipes)
        self.folder = choose_run_folder(self.command, run_dir, ckpt_path, recipe_name(recipes), self.start)
        self.found: FoundCheckpoint | None = None
        if self.folder.checkpoint is not None:
            look = newest_checkpoint if self.folder.wants_newest else check_checkpoint
            self.found = look(self.folder.checkpoint)

    def instantiate_classes(self) -> None:
        """Makes the task, the data and the trainer; Lightning's own uses a deprecated method of jsonargparse."""
        self.config_init = self.parser.instantiate(self.config)
        self.model = self._get(self.config_init, "model")
        self.datamodule = self._get(self.config_init, "data")
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer around the run folder: its logger, its callbacks, its resolved recipe."""
        config = dict(self._get(self.config_init, "trainer"))
        config["callbacks"] = self.all_callbacks(config)
        if not any(isinstance(callback, Checkpoint) for callback in config["callbacks"]):
            config["enable_checkpointing"] = False
        if config["enable_model_summary"] is None:
            config["enable_model_summary"] = False  # ParameterAccounting says more, by group
        asked = self.folder.path
        self.is_fresh = self.folder.is_default or not asked.exists() or not any(asked.iterdir())
        path = self.run_folder = self.folder.create()
        if is_first_rank() and self.command == "fit":
            hold(path)
        if config["logger"] is None or config["logger"] is True:
            # What a killed run logged behind its checkpoint is logged again by the run that goes on.
            purge = self.found.step if self.found is not None and self.command == "fit" else None
            config["logger"] = TensorBoardLogger(save_dir=path, name="tensorboard", version="", purge_step=purge)
        try:
            trainer = Trainer(**{**config, **kwargs, "default_root_dir": path})
        except BaseException:
            self.discard()
            raise
        if is_first_rank():
            write_config(path, self.command, self.resolved_recipe())
            clear(path)
        observe_children(trainer)
        return trainer

    def discard(self) -> None:
        """Removes the run folder if this run made it and has nothing to show for it."""
        if self.is_fresh:
            remove_if_unused(self.run_folder)

    def all_callbacks(self, trainer_config: dict[str, Any]) -> list[Callback]:
        """Returns the recipe's callbacks, its adapter and the default ones."""
        given = trainer_config["callbacks"] or []
        listed = list(given) if isinstance(given, list) else [given]
        adapter = self._get(self.config_init, "adapter")
        unwanted: frozenset[str] = frozenset()
        if trainer_config["enable_checkpointing"] is False:
            unwanted |= CHECKPOINTING
        is_probe = isinstance(self.model, ClassificationTask) and self.model.train_head  # its head is its adapter
        if adapter is None and self.model.adapter is None and not is_probe:
            unwanted |= NEED_ADAPTER
        self.first_cause = FirstCause()
        first: list[Callback] = [self.first_cause, ShareRunFolder(), *([] if adapter is None else [adapter])]
        return [*first, *with_defaults(self.command, listed, unwanted)]

    def after_instantiate_classes(self) -> None:
        """Gives the task the sections that are not its own arguments."""
        self.hand_over(self.model)

    def hand_over(self, task: FineTuneTask) -> None:
        """Sets the task's optimiser and schedule from their sections; a task keeps its own for one that is null."""
        optimizer = self._get(self.config_init, "optimizer")
        if optimizer is not None:
            settings = optimizer.get("init_args", Namespace()).as_dict()
            task.optimizer = partial(import_object(optimizer.class_path), **settings)
        schedule = self._get(self.config_init, "lr_scheduler")
        if schedule is not None:
            task.lr_scheduler = schedule

    def run(self) -> None:
        """Runs the command on the task and the data."""
        for note in (self.folder.note, None if self.found is None else self.found.note, self.new_adapter_note()):
            if note is not None and is_first_rank():
                print(note)
        arguments = {name: self.config[name] for name in self.method_arguments}
        if self.found is not None:
            arguments |= {"ckpt_path": str(self.found.path), "weights_only": True}
        else:
            arguments["ckpt_path"] = None
        try:
            if self.config.get("adapter_path") is not None:
                self.model.load_adapter_from(self.at_start(self.config.adapter_path))
            getattr(self.trainer, self.command)(self.model, datamodule=self.datamodule, **arguments)
        except BaseException as error:
            launcher = self.trainer.strategy.launcher
            if isinstance(error, Exception) and isinstance(launcher, ObservedLauncher):
                launcher.end_children()
            elif isinstance(error, Exception) and self.trainer.world_size > 1:
                time.sleep(1.0)  # the claim of the first cause lies in the folder that is removed next
            if self.trainer.global_step == 0:
                self.discard()
            said = self.said(error)
            if said is error:
                raise
            raise said from error

    def new_adapter_note(self) -> str | None:
        """Says that nothing trained is scored, where a recipe's adapter is there but no saved one was named."""
        named = self.found is not None or self.config.get("adapter_path") is not None
        if self.command == "fit" or self.config.adapter is None or named:
            return None
        return "the adapter is new, so this is the untouched base; a trained one needs --adapter_path RUN/adapter"

    def said(self, error: BaseException) -> BaseException:
        """What to raise for an error: itself, or words that say more where several processes or memory are concerned.

        A bug stays what it is, with its traceback, in the process that met it first.
        """
        instead = self.first_cause.error
        if isinstance(instead, SaidElsewhereError):
            return instead
        if is_out_of_memory(error):
            return MemoryRanOutError(self.explain_memory(error))
        if instead is not None and (is_lost_connection(error) or (isinstance(error, Exception) and is_expected(error))):
            return instead
        return error

    def explain_memory(self, error: BaseException) -> str:
        """See :func:`wegeft_pl.cli.out_of_memory.explain`."""
        config = self.config.as_dict()
        model, data = (config[name].get("init_args", {}) for name in ("model", "data"))
        recipe = Recipe(model, data, config["trainer"])
        trainer = self.trainer
        stage: Stage = "train" if self.first_cause.stage == RunningStage.TRAINING else "evaluate"
        if not any(loop.batch_progress.total.ready for loop in batch_loops(trainer)):
            stage = "load"
        step = "while the model was loaded" if stage == "load" else f"at step {trainer.global_step}"
        rank = f"rank {trainer.global_rank}, " if trainer.world_size > 1 else ""

        def plan() -> Plan:
            sections = self.task_alone()
            task = self._get(sections, "model")
            self.hand_over(task)
            estimate = estimate_recipe(task, self._get(sections, "adapter"), config["data"])
            sizes: Counter[torch.dtype] = Counter()
            for parameter in task.parameters():
                sizes[parameter.dtype] += parameter.nbytes
            return Plan(estimate, sizes.most_common(1)[0][0])

        return explain(error, recipe, stage, f"{rank}{trainer.strategy.root_device} {step}", plan)

    def task_alone(self) -> Namespace:
        """Makes the task and the adapter anew; data and trainer stay plain settings."""
        wanted = self.config.clone()
        wanted["data"] = None
        for name in ("callbacks", "logger", "strategy", "plugins", "profiler"):
            wanted["trainer"][name] = None
        made: Namespace = self.parser.instantiate(wanted)
        return made

    def resolved_recipe(self) -> str:
        """Returns the recipe with every value filled in, as YAML that is itself a recipe."""
        return str(self.parser.dump(self.config, skip_unset=False, skip_validation=True))

    def at_start(self, path: str) -> Path:
        """Returns a path of the command line relative to where the process started."""
        return (self.start / Path(path).expanduser()).absolute()

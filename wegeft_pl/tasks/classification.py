"""What classification of images and of texts share: head, loss, scores, class names, parameter groups, averages.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn, no_grad
from torch.optim import Optimizer

from wegeft_pl.adapter import AdapterConfig
from wegeft_pl.adapter.files import read_about
from wegeft_pl.adapter.storage import read_tensors
from wegeft_pl.adapter.trained import TrainedInFull
from wegeft_pl.backbones.fresh import HeadInit
from wegeft_pl.losses import classification_loss
from wegeft_pl.tasks import checkpoint as checkpoints
from wegeft_pl.tasks.base import FineTuneTask, OptimizerFactory
from wegeft_pl.tasks.classification_evaluation import ClassificationEvaluation, Classified
from wegeft_pl.tasks.ema import MovingAverage
from wegeft_pl.tasks.evaluation import Evaluation, Prediction
from wegeft_pl.tasks.guard import StepGuard
from wegeft_pl.tasks.parameter_groups import GroupSettings, apply_scales, parameter_groups
from wegeft_pl.tasks.schedule import Schedule

Batch = dict[str, Any]

#: What ``import-reference`` writes beside an adapter.
HEAD_BESIDE = "head.safetensors"
#: The checkpoint's section of a moving average, in this package's own.
AVERAGE = "average"


@runtime_checkable
class HasClasses(Protocol):
    """A data module that knows its classes."""

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the labels; empty where numbers are to be predicted."""
        ...


class ClassificationTask(FineTuneTask, ABC):
    """Fine-tunes a classifier: an adapter in the backbone, and the head trained in full beside it.

    The head belongs to the adapter as a module of ``also_train`` does: saved in ``adapter.safetensors``, merged,
    checked, and counted as ``head``. Without an adapter section the head alone is trained (a linear probe), and lies in
    the run's checkpoints. One class means that a number is predicted (mean squared error).

    Batches hold ``labels`` and ``indices`` (B,); a row with the index -1 or the label -100 (NaN for numbers) is not
    counted. Derive from it and say how a batch becomes logits.

    Args:
        backbone: what the model is; see the subclass.
        num_classes: C; None: as many as the data module's ``class_names``.
        class_names: C names; None: the data module's. They are saved with the adapter and the merged model.
        train_head: train the head; False keeps the classifier of a checkpoint as it is.
        head_init: how a new head starts: ``"library"`` as timm or transformers draw it, from the run's seed (a
            checkpoint's own classifier where it has as many classes), or ``"zero"``: its last layer at zero.
        head_lr: learning rate of the head; None: the optimiser's.
        head_weight_decay: weight decay of the head; None: the optimiser's.
        norm_bias_weight_decay: weight decay of norms and biases; None: the optimiser's.
        layer_decay: factor of the learning rate per layer below the head, in (0, 1]; None: 1.
        label_smoothing: share of the target that is spread over all classes in training, in [0, 1).
        ema_decay: keep a moving average of what is trained; scores, checkpoints, adapter and merged model are of it.
            Not with wegeft_fsdp, and not with SpectralCap, which would cap the average. None: no average.
        dtype: see :class:`FineTuneTask`, as the rest.
        quantize: see there.
        compile_blocks: see there.
        optimizer: see there.
        lr_scheduler: see there.
        guard: see there.

    Raises:
        ValueError: a setting is out of range.
    """

    #: What is written beside the adapter as the kind of task.
    kind = "classification"

    def __init__(
        self,
        backbone: str,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        train_head: bool = True,
        head_init: HeadInit = "library",
        head_lr: float | None = None,
        head_weight_decay: float | None = None,
        norm_bias_weight_decay: float | None = None,
        layer_decay: float | None = None,
        label_smoothing: float = 0.0,
        ema_decay: float | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        compile_blocks: bool = False,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: Schedule | None = None,
        guard: StepGuard | None = None,
    ) -> None:
        super().__init__(backbone, dtype, optimizer, lr_scheduler, guard, quantize, compile_blocks)
        if head_init not in ("library", "zero"):
            raise ValueError(f"head_init must be library or zero, got {head_init!r}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing!r}")
        self.class_names = None if class_names is None else list(class_names)
        self.num_classes = len(self.class_names) if num_classes is None and self.class_names else num_classes
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names has {len(self.class_names)} names for num_classes {self.num_classes}")
        self.train_head = train_head
        self.head_init: HeadInit = head_init
        self.groups = GroupSettings(head_lr, head_weight_decay, norm_bias_weight_decay, layer_decay)
        self.label_smoothing = label_smoothing
        self._average = None if ema_decay is None else MovingAverage(ema_decay, self._named_trained)
        self._evaluation: ClassificationEvaluation | None = None
        #: (C, C) counts by true (rows) and predicted class, of the last validation or test; None for numbers.
        self.confusion: Tensor | None = None

    # What a subclass says

    @abstractmethod
    def build_classifier(self, num_classes: int, meta: bool) -> nn.Module:
        """The backbone with a head for so many classes."""

    @abstractmethod
    def heads_of(self, backbone: nn.Module) -> list[str]:
        """Names of the head's modules in the backbone."""

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """The logits (B, C) of a batch."""

    @abstractmethod
    def prompts(self, batch: Batch) -> list[str]:
        """What a batch's rows are, in words, for the files of predictions."""

    def depths_of(self, backbone: nn.Module) -> Mapping[str, int]:
        """How many layers lie above each parameter, for ``layer_decay``.

        Raises:
            ValueError: this kind of task does not say.
        """
        raise ValueError(f"layer_decay: {type(self).__name__} does not know its layers; leave it out")

    def mixed(self, batch: Batch) -> tuple[Batch, Tensor]:
        """A training batch and its targets (see :func:`classification_loss`); override it to mix rows."""
        return batch, batch["labels"]

    # Building

    def build_backbone(self, meta: bool = False) -> nn.Module:
        """Builds the classifier, frozen but for its head, and adds the head to what the adapter trains."""
        self._settle_classes()
        assert self.num_classes is not None
        model = self.build_classifier(self.num_classes, meta)
        heads = self.heads_of(model) if self.train_head else []
        trained = {id(parameter) for name in heads for parameter in model.get_submodule(name).parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        if self.adapter_config is not None:
            self.adapter_config = self._with_head(self.adapter_config, model)
        elif self.adapter_folder is None and self._trainer is not None and heads:
            TrainedInFull.prepare(model, heads).hook()  # a linear probe in float32, as with an adapter
        return model

    def use_adapter(self, config: AdapterConfig) -> None:
        """Says which adapter to inject; the head is trained beside it. See :meth:`FineTuneTask.use_adapter`."""
        super().use_adapter(config if self.backbone is None else self._with_head(config, self.backbone))
        self._note_classes()

    def load_adapter_from(self, directory: Any) -> None:
        """Says which saved adapter folder, with its head, to load."""
        super().load_adapter_from(directory)
        self._note_classes()

    def configure_model(self) -> None:
        """Builds backbone and adapter, and keeps the class names with the adapter.

        Raises:
            ValueError: the classes are not known, or others than those of the adapter that is loaded.
        """
        super().configure_model()
        self._note_classes()
        self._load_head_beside()

    def setup(self, stage: str) -> None:
        """Checks the run, and that its data has the classes of the head.

        Raises:
            ValueError: see :meth:`FineTuneTask.setup`; the data has other classes; or what is averaged is sharded.
        """
        super().setup(stage)
        if self._average is not None and self.sharding is not None:
            raise ValueError("ema_decay: an average of sharded parameters is not kept; use ddp, or leave it out")
        if self.backbone is not None:
            self._settle_classes()

    def facts_to_agree_on(self) -> dict[str, Any]:
        """Adds the classes."""
        return super().facts_to_agree_on() | {"classes": {"number": self.num_classes, "names": self.class_names}}

    @property
    def model(self) -> nn.Module:
        """The backbone with its head, once it is built."""
        assert self.backbone is not None, "the backbone is built by configure_model"
        return self.backbone

    def _with_head(self, config: AdapterConfig, model: nn.Module) -> AdapterConfig:
        heads = self.heads_of(model) if self.train_head else []
        for head in heads:
            others = [name for name, _ in model.named_modules() if name.endswith(f".{head}")]
            if others:
                raise ValueError(f"train_head: {others[0]} has the head's name {head}; use train_head: false and "
                                 "name in also_train what to train")  # fmt: skip
        return dataclasses.replace(config, also_train=[*dict.fromkeys([*config.also_train, *heads])])

    def _settle_classes(self) -> None:
        """Takes number and names from the data module, else from the adapter folder that is loaded."""
        datamodule = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        names: list[str] | None = None
        number: int | None = None
        if isinstance(datamodule, HasClasses):
            names = list(datamodule.class_names) or None
            number = len(names) if names else 1
        elif self.num_classes is None and self.adapter_folder is not None:
            about = read_about(self.adapter_folder)
            names, number = about.get("class_names"), about.get("num_classes")
        if self.num_classes is None:
            self.num_classes = number
        if self.class_names is None and number == self.num_classes:
            self.class_names = names
        if self.num_classes is None:
            raise ValueError("the number of classes is not known; give it with --model.num_classes (1: predict a "
                             "number), or a data module with class_names")  # fmt: skip
        if number is not None and number != self.num_classes:
            raise ValueError(f"the data has {number} classes and the head {self.num_classes}; leave num_classes out, "
                             "or give the data that the head was trained for")  # fmt: skip
        if names is not None and self.class_names != names:
            raise ValueError(_other_names(self.class_names or [], names, "the data has"))
        # For load_from_checkpoint, which has no data to ask.
        self.hparams.update(num_classes=self.num_classes, class_names=self.class_names)

    def _note_classes(self) -> None:
        """Keeps the classes with the adapter, where they are known and the adapter is in place."""
        if self.adapter is None or self.num_classes is None:
            return
        saved = self.adapter.about.get("class_names")
        if saved is not None and self.class_names is not None and saved != self.class_names:
            raise ValueError(_other_names(saved, self.class_names, "the run has"))
        self.adapter.about |= {"task": self.kind, "num_classes": self.num_classes, "class_names": self.class_names}

    def _load_head_beside(self) -> None:
        """Loads the head that ``import-reference`` writes beside an adapter which has none of its own."""
        if self.adapter is None or self.adapter_folder is None:
            return
        heads = self.heads_of(self.model)
        if any(head in self.adapter.trained.modules for head in heads):
            return
        path = self.adapter_folder / HEAD_BESIDE
        if not path.is_file():
            rank_zero_warn(f"{self.adapter_folder} holds no head; {', '.join(heads)} stays as it was built")
            return
        tensors = read_tensors(path)
        own = {f"{head}.{name}": value for head in heads for name, value in
               self.model.get_submodule(head).state_dict().items()}  # fmt: skip
        if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in own.items()}:
            raise ValueError(
                f"{path} holds {_shapes(tensors)}, the head is {_shapes(own)}; give the number of classes that it was "
                "trained for with --model.num_classes"
            )
        with no_grad():
            for name, value in tensors.items():
                own[name].copy_(value)

    # Training

    def make_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """Makes the optimiser over groups of parameters; see :class:`GroupSettings`."""
        heads = [p for name in self.heads_of(self.model) for p in self.model.get_submodule(name).parameters()]
        prefix = checkpoints.BACKBONE
        depths = self.depths_of(self.model) if self.groups.layer_decay is not None else {}
        named = list(self._named_trained())
        groups: Any = parameter_groups(named, heads, self.groups, {prefix + name: n for name, n in depths.items()})
        optimizer = self.optimizer(groups)
        apply_scales(optimizer)
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the summed loss; see :meth:`FineTuneTask.weighted`."""
        batch, targets = self.mixed(batch)
        loss_sum, rows = classification_loss(self.logits(batch), targets, self.label_smoothing)
        mean = loss_sum.detach() / rows.clamp(min=1)
        self.log("train/loss", mean, prog_bar=True, batch_size=len(targets))
        groups = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
        self.log("train/lr", groups[0]["lr"])
        if self.groups.head_lr is not None:
            self.log("train/head_lr", groups[-1]["lr"])
        return self.weighted(loss_sum, rows)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Trains on what is trained, not on its average."""
        if self._average is not None:
            self._average.enter_step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes a step, and averages."""
        super().optimizer_step(*args, **kwargs)
        if self._average is not None:
            self._average.leave_step()

    def on_validation_start(self) -> None:
        """Scores the average, also where a validation falls between the batches of a step."""
        super().on_validation_start()
        if self._average is not None:
            self._average.show_average()

    def _named_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    # Scores

    def new_evaluation(self) -> Evaluation:
        """Loss and accuracies, or correlations where numbers are predicted."""
        assert self.num_classes is not None
        evaluation = ClassificationEvaluation(self.classify, classification_loss, self.num_classes, self.class_names)
        return evaluation.to(self.device)

    def classify(self, batch: Batch) -> Classified:
        """The result of a batch, for scores and predictions."""
        with no_grad():
            logits = self.logits(batch).float()
        return Classified(logits, batch["labels"], batch["indices"].tolist(), self.prompts(batch))

    def on_validation_epoch_start(self) -> None:
        """Starts a fresh score."""
        self._start_scores()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Prediction]]:
        """Scores a batch; the predictions reach callbacks as the step's output."""
        return self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss and the other scores."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Starts a fresh score."""
        self._start_scores()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Prediction]]:
        """Scores a batch; the predictions reach callbacks as the step's output."""
        return self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Logs test/loss and the other scores."""
        self._log_scores("test")

    def on_predict_epoch_start(self) -> None:
        """Starts anew."""
        self._start_scores()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Classifies a batch."""
        return self._score(batch)["predictions"]

    def _start_scores(self) -> None:
        evaluation = self.new_evaluation()
        assert isinstance(evaluation, ClassificationEvaluation)
        self._evaluation = evaluation

    def _score(self, batch: Batch) -> dict[str, list[Prediction]]:
        assert self._evaluation is not None
        return {"predictions": self._evaluation.update(batch)}

    def _log_scores(self, stage: str) -> None:
        assert self._evaluation is not None
        scores = {f"{stage}/{name}": value for name, value in self._evaluation.compute().items()}
        self.confusion = self._evaluation.confusion
        # Already reduced over ranks by the metrics themselves.
        self.log_dict(scores, prog_bar=stage == "val", rank_zero_only=False, sync_dist=False)
        self._evaluation = None

    # What callbacks and plan ask

    def training_loss(self, batch: Batch) -> Tensor:
        """The summed loss () of a batch, nothing mixed."""
        return classification_loss(self.logits(batch), batch["labels"], self.label_smoothing)[0]

    @no_grad()
    def probe_output(self, batch: Batch) -> Tensor:
        """The logits (B, C) of a batch in eval mode, for the merge report."""
        training = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            return self.logits(batch)
        finally:
            for module, mode in training.items():
                module.training = mode

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what is trained; where there is an average, that is the model, and the trained values lie beside it."""
        super().on_save_checkpoint(checkpoint)
        if self._average is not None:
            state, rest = self._average.save(checkpoint["state_dict"])
            checkpoint["state_dict"] = state
            checkpoint[checkpoints.SECTION][AVERAGE] = rest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Verifies a checkpoint and goes on from it.

        Raises:
            ValueError: see :meth:`FineTuneTask.on_load_checkpoint`; or a run with an average goes on from one without,
                or the other way round.
        """
        super().on_load_checkpoint(checkpoint)
        rest = checkpoint.get(checkpoints.SECTION, {}).get(AVERAGE)
        if not self.is_fitting:
            return
        if (rest is None) != (self._average is None):
            has, way_out = ("no", "leave ema_decay out") if rest is None else ("a", "give the same ema_decay")
            raise ValueError(f"this checkpoint holds {has} moving average; {way_out}, or start a new run")
        if self._average is not None:
            self._average.load(rest)

    @property
    def is_fitting(self) -> bool:
        """Whether a trainer is fitting this task."""
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def say(self, lines: Sequence[str]) -> None:
        """Prints what a user should know, once over all processes."""
        for line in lines:
            rank_zero_info(line)


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())


def _other_names(own: Sequence[str], others: Sequence[str], who: str) -> str:
    place = next((n for n, pair in enumerate(zip(own, others, strict=False)) if pair[0] != pair[1]), 0)
    return (
        f"{who} other classes than the head was trained for: class {place} is {others[place]!r} and was "
        f"{own[place]!r}; give data with the same classes in the same order"
    )

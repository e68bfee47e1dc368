"""The base task: a LightningModule around any backbone, with what every fine-tuning run shares.

That is: when the backbone is built and the adapter injected, which parameters the optimiser sees, what a checkpoint
holds, how the loss is normalised over accumulation and ranks, and that a loss that is not finite stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from wegeft_pl.adapter import Adapter, AdapterConfig, adapter_of, inject, load_adapter
from wegeft_pl.tasks import checkpoint as checkpoints
from wegeft_pl.tasks.evaluation import Evaluation
from wegeft_pl.tasks.schedule import Schedule
from wegeft_pl.tasks.window import WeightWindow

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class BatchCount:
    """What one batch holds, for throughput.

    Args:
        samples: sequences or images.
        tokens: without padding; None where a batch has no tokens.
        padded_tokens: with padding; None likewise.
    """

    samples: int
    tokens: int | None = None
    padded_tokens: int | None = None


class FineTuneTask(LightningModule):
    """Wraps a backbone for fine-tuning; derive from it and write ``training_step``.

    Either name the backbone and let ``configure_model`` build it, or set ``self.backbone`` in your own ``__init__``.
    A ``training_step`` may return a mean loss as usual, or a summed loss through :meth:`weighted`, which makes the
    gradient independent of how a batch is cut into micro-batches and ranks.

    Args:
        backbone: a timm name, a Hugging Face folder or hub id, or ``bundled:NAME``; None where a subclass builds it.
        dtype: the backbone's dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``. Adapters are float32.
        optimizer: called with the trainable parameters; AdamW with learning rate 2e-4 and no weight decay if None.
        lr_scheduler: the schedule, stepped once per optimiser step; constant if None.

    Raises:
        ValueError: from ``configure_model``, where the backbone cannot be built or the adapter does not fit it.
    """

    backbone: nn.Module | None

    def __init__(
        self,
        backbone: str | None = None,
        dtype: str = "auto",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.backbone_name = backbone
        self.dtype_name = dtype
        self.backbone = None
        self.optimizer: OptimizerFactory = optimizer or partial(AdamW, lr=2e-4, weight_decay=0.0)
        self.lr_scheduler = lr_scheduler
        self.adapter: Adapter | None = None
        self.adapter_config: AdapterConfig | None = None
        self._adapter_folder: Path | None = None
        self._window = WeightWindow()
        # The base is in no checkpoint; what must be there is checked by on_load_checkpoint.
        self.strict_loading = False

    # Building

    def build_backbone(self, meta: bool = False) -> nn.Module:
        """Builds the backbone that the task was named; override for another kind of model.

        Args:
            meta: shapes only, on the meta device; what ``plan`` uses.
        """
        from wegeft_pl import backbones

        if self.backbone_name is None:
            raise ValueError(
                f"{type(self).__name__} has no backbone; name one (--model.backbone), or set self.backbone in __init__"
            )
        return backbones.build(self.backbone_name, dtype=self.dtype_name, meta=meta)

    def use_adapter(self, config: AdapterConfig) -> None:
        """Says which adapter to inject; at once where the backbone exists, else when it is built.

        Called again with the same config (Lightning sets up anew for test after fit) it does nothing.

        Raises:
            ValueError: another adapter is in place already.
        """
        if self.adapter is not None:
            if self._adapter_folder is None and self.adapter.config != config:
                raise ValueError("this task already has another adapter; call task.adapter.remove() first")
            return
        self.adapter_config = config
        if self.backbone is not None:
            self._attach(self.backbone)

    def load_adapter_from(self, directory: str | Path) -> None:
        """Says which saved adapter folder to load into the backbone, instead of a fresh adapter."""
        self._adapter_folder = Path(directory)
        if self.backbone is not None:
            self._attach(self.backbone)

    def configure_model(self) -> None:
        """Builds the backbone and injects the adapter, once; Lightning calls it again for validate and test."""
        if self.backbone is None:
            backbone = self.build_backbone()
            self._attach(backbone)
            # from_pretrained returns eval mode and Lightning keeps it: dropout and checkpointing would stay off.
            self.backbone = backbone.train()

    def _attach(self, backbone: nn.Module) -> None:
        if self._adapter_folder is not None:
            self.adapter = load_adapter(backbone, self._adapter_folder)
        elif self.adapter_config is not None and adapter_of(backbone) is None:
            self.adapter = inject(backbone, self.adapter_config)

    def setup(self, stage: str) -> None:
        """Refuses precisions under which adapters do not learn, and wakes a backbone that is in eval mode.

        Raises:
            ValueError: the trainer's precision is 16-true.
        """
        if stage != "fit":
            return
        if self.backbone is not None and not self.backbone.training:
            # As from_pretrained leaves it; Lightning keeps it so, and dropout and checkpointing would stay off.
            self.backbone.train()
        precision = self.trainer.precision
        if precision == "16-true":
            raise ValueError("precision 16-true makes training diverge; use bf16-mixed, or 16-mixed on older GPUs")
        if precision == "bf16-true":
            rank_zero_warn(
                "precision bf16-true rounds adapters to bfloat16, which loses small updates; use bf16-mixed with "
                "model.dtype bfloat16 for the same memory"
            )

    # Training

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What the optimiser sees: parameters that require a gradient, adapter and others alike."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """Makes the optimiser over the trainable parameters, and the schedule.

        Raises:
            ValueError: nothing is trainable, or the schedule needs the number of steps and the run has no end.
        """
        parameters = self.trainable_parameters()
        if not parameters:
            raise ValueError(
                "nothing to train: the backbone is frozen and there is no adapter; add the adapter section"
            )
        optimizer = self.optimizer(parameters)
        if self.lr_scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("the learning-rate schedule needs an end: set --trainer.max_epochs or --trainer.max_steps")
        scheduler = self.lr_scheduler.build(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def weighted(self, loss_sum: Tensor, weight: Tensor) -> Tensor:
        """Returns a summed loss from ``training_step`` so that the step's gradient is that of the weighted mean.

        Args:
            loss_sum: () sum of the losses of this micro-batch.
            weight: () how many tokens or samples were summed.

        Returns:
            The loss to return from ``training_step``; gradients are divided by the whole step's weight, over
            micro-batches and ranks, just before clipping.
        """
        self._window.add(weight)
        return loss_sum

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Normalises the gradients of summed losses, and stops at gradients that are not finite.

        Raises:
            ValueError: a gradient is not finite, so that the step would ruin the weights. Under 16-mixed the loss
                scaler handles such steps itself.
        """
        parameters = self.trainable_parameters()
        self._window.normalise(parameters, self.trainer)
        if self.trainer.precision != "16-mixed":
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self.check_finite(torch.nn.utils.get_total_norm(gradients), "the gradient's norm")

    def check_finite(self, value: Tensor, what: str = "the loss") -> None:
        """Stops the run at a value that is not finite, before it reaches the weights.

        Args:
            value: () such as the loss of this micro-batch.
            what: its name, for the message.

        Raises:
            ValueError: names the step, and the last checkpoint, which is kept.
        """
        if not bool(torch.isfinite(value.detach())):
            callback = self.trainer.checkpoint_callback
            last = vars(callback).get("last_model_path") or vars(callback).get("best_model_path") if callback else None
            clipped = bool(self.trainer.gradient_clip_val)
            kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written yet"
            raise ValueError(
                f"{what} is {value.item()} at step {self.global_step} (epoch {self.current_epoch}); {kept}; "
                + (
                    "lower the learning rate"
                    if clipped
                    else "lower the learning rate, or set trainer.gradient_clip_val"
                )
            )

    # What callbacks and plan ask

    def example_batch(self, samples: int, tokens: int) -> Any:
        """A batch of the given size, for counting memory without data; None where the task cannot make one up."""
        return None

    def training_loss(self, batch: Any) -> Tensor:
        """The loss () of a batch without a trainer around it, for counting memory.

        Raises:
            ValueError: this kind of task does not say how.
        """
        raise ValueError(f"{type(self).__name__} does not say how to compute a loss alone; override training_loss")

    def count_batch(self, batch: Any) -> BatchCount:
        """Counts a batch for throughput: the first tensor's first axis is the samples."""
        first = next(iter(batch.values())) if isinstance(batch, dict) else batch
        while isinstance(first, (list, tuple)):
            first = first[0]
        return BatchCount(samples=len(first))

    def new_evaluation(self) -> Evaluation | None:
        """A fresh scorer of batches, or None where the task has no score of its own."""
        return None

    def save_merged(self, directory: Path) -> None:
        """Writes the backbone, its adapter already merged, in the format of the library it came from.

        Raises:
            ValueError: this kind of task has no such format.
        """
        raise ValueError(f"{type(self).__name__} does not say how to save a merged backbone; override save_merged")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what is trained and leaves the base out."""
        checkpoints.pack(checkpoint, self, self.adapter)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = False, assign: bool = False) -> Any:
        """Loads what a checkpoint holds; the base's own tensors are not expected in it and not reported missing."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        wanted = checkpoints.trained_names(self, self.adapter)
        result.missing_keys[:] = [name for name in result.missing_keys if name in wanted]
        return result

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuilds the adapter where no callback gave one (load_from_checkpoint), then verifies the checkpoint.

        Raises:
            ValueError: the checkpoint does not belong to this task, adapter or base.
        """
        config = checkpoints.adapter_config_in(checkpoint)
        if config is not None and self.adapter is None and self._fabric is None and self._trainer is None:
            self.use_adapter(config)
        checkpoints.verify(checkpoint, self, self.adapter)

"""Tasks: LightningModules to run or to derive from."""

from wegeft_pl.tasks.adapter_callback import AdapterCallback
from wegeft_pl.tasks.base import BatchCount, FineTuneTask, OptimizerFactory
from wegeft_pl.tasks.causal_lm import CausalLMTask
from wegeft_pl.tasks.evaluation import Evaluation, Prediction, TextEvaluation
from wegeft_pl.tasks.guard import StepGuard, last_checkpoint
from wegeft_pl.tasks.schedule import ConstantSchedule, CosineSchedule, LinearSchedule, Schedule

__all__ = [
    "AdapterCallback",
    "BatchCount",
    "CausalLMTask",
    "ConstantSchedule",
    "CosineSchedule",
    "Evaluation",
    "FineTuneTask",
    "LinearSchedule",
    "OptimizerFactory",
    "Prediction",
    "Schedule",
    "StepGuard",
    "TextEvaluation",
    "last_checkpoint",
]

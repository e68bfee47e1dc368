"""Tasks: LightningModules to run or to derive from."""

from wegeft_pl.tasks.adapter_callback import AdapterCallback
from wegeft_pl.tasks.asked import BatchCount
from wegeft_pl.tasks.base import FineTuneTask, OptimizerFactory
from wegeft_pl.tasks.causal_lm import CausalLMTask
from wegeft_pl.tasks.classification import ClassificationTask
from wegeft_pl.tasks.classification_evaluation import ClassificationEvaluation, ClassPrediction
from wegeft_pl.tasks.evaluation import Evaluation, Prediction, TextEvaluation
from wegeft_pl.tasks.guard import StepGuard, last_checkpoint
from wegeft_pl.tasks.image_classification import ImageClassificationTask
from wegeft_pl.tasks.schedule import ConstantSchedule, CosineSchedule, LinearSchedule, Schedule
from wegeft_pl.tasks.sequence_classification import SequenceClassificationTask

__all__ = [
    "AdapterCallback",
    "BatchCount",
    "CausalLMTask",
    "ClassPrediction",
    "ClassificationEvaluation",
    "ClassificationTask",
    "ConstantSchedule",
    "CosineSchedule",
    "Evaluation",
    "FineTuneTask",
    "ImageClassificationTask",
    "LinearSchedule",
    "OptimizerFactory",
    "Prediction",
    "Schedule",
    "SequenceClassificationTask",
    "StepGuard",
    "TextEvaluation",
    "last_checkpoint",
]

"""Which scores each GLUE task is given by, and the mean over the six tasks that adapters are compared on."""

from __future__ import annotations

from collections.abc import Mapping

#: Scores of each task, the headline first, by the names that :class:`ClassScores` and :class:`RegressionScores` use.
#: Headlines are those of the papers on adapters (LoRA, VeRA); GLUE's own board takes the mean of the two where there
#: are two.
GLUE_SCORES: dict[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "mnli": ("accuracy",),
    "mnli_mismatched": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "qnli": ("accuracy",),
    "qqp": ("accuracy", "f1"),
    "rte": ("accuracy",),
    "sst2": ("accuracy",),
    "stsb": ("pearson", "spearman"),
    "wnli": ("accuracy",),
}

#: The tasks of the published mean.
SIX_TASKS = ("sst2", "mrpc", "cola", "qnli", "rte", "stsb")


def glue_headline(task: str, scores: Mapping[str, float]) -> float:
    """The one score that a task is compared by.

    Args:
        task: a GLUE task's name.
        scores: the task's scores by name; others may be among them.

    Raises:
        ValueError: the task is unknown, or its score is not there.

    Example:
        >>> glue_headline("mrpc", {"loss": 0.4, "accuracy": 0.88, "f1": 0.91})
        0.88
    """
    if task not in GLUE_SCORES:
        raise ValueError(f"no GLUE task {task!r}; there are {', '.join(GLUE_SCORES)}")
    name = GLUE_SCORES[task][0]
    if name not in scores:
        raise ValueError(f"{task} is compared by {name}, got only {', '.join(scores) or 'no score'}")
    return scores[name]


def glue_mean(scores: Mapping[str, Mapping[str, float]]) -> float:
    """The mean of six tasks: accuracy, but Matthews' correlation for CoLA and Pearson's for STS-B.

    Args:
        scores: each task's scores by name, as fractions; tasks beyond the six are not counted.

    Returns:
        A fraction; published tables print 100 times as much.

    Raises:
        ValueError: one of the six tasks is not there.

    Example:
        >>> accuracy = {task: {"accuracy": 0.9} for task in ("sst2", "mrpc", "qnli", "rte")}
        >>> round(glue_mean(accuracy | {"cola": {"matthews": 0.6}, "stsb": {"pearson": 0.9}}), 4)
        0.85

    Source: METHOD.md section 6.
    """
    missing = [task for task in SIX_TASKS if task not in scores]
    if missing:
        raise ValueError(f"the GLUE mean needs {', '.join(SIX_TASKS)}; {', '.join(missing)} not there")
    return sum(glue_headline(task, scores[task]) for task in SIX_TASKS) / len(SIX_TASKS)

"""VTAB-1k: nineteen tasks of 1,000 training images each, in three groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wegeft_pl.data.vision.lists import ImageListDataModule

Group = Literal["natural", "specialized", "structured"]


@dataclass(frozen=True)
class VTABTask:
    """A task of VTAB-1k.

    Args:
        group: which mean it counts in.
        num_classes: numbered from 0.
    """

    group: Group
    num_classes: int


#: The tasks, by the name of their folder in the usual layout.
VTAB_TASKS: dict[str, VTABTask] = {
    "cifar": VTABTask("natural", 100),
    "caltech101": VTABTask("natural", 102),
    "dtd": VTABTask("natural", 47),
    "oxford_flowers102": VTABTask("natural", 102),
    "oxford_iiit_pet": VTABTask("natural", 37),
    "svhn": VTABTask("natural", 10),
    "sun397": VTABTask("natural", 397),
    "patch_camelyon": VTABTask("specialized", 2),
    "eurosat": VTABTask("specialized", 10),
    "resisc45": VTABTask("specialized", 45),
    "diabetic_retinopathy": VTABTask("specialized", 5),
    "clevr_count": VTABTask("structured", 8),
    "clevr_dist": VTABTask("structured", 6),
    "dmlab": VTABTask("structured", 6),
    "kitti": VTABTask("structured", 4),
    "dsprites_loc": VTABTask("structured", 16),
    "dsprites_ori": VTABTask("structured", 16),
    "smallnorb_azi": VTABTask("structured", 18),
    "smallnorb_ele": VTABTask("structured", 9),
}


def vtab_means(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Averages the accuracies of tasks by group, and over all nineteen.

    A mean is there only where all of its tasks are, because a mean over some compares with nothing. Of the two usual
    means over everything this is the one of tasks, not of groups.

    Args:
        accuracies: of tasks by folder name, in any unit.

    Returns:
        ``natural``, ``specialized``, ``structured`` (7, 4 and 8 tasks) and ``mean`` (19), in the same unit.

    Raises:
        ValueError: a name is no task's.

    Example:
        >>> scores = {name: 70.0 if task.group == "natural" else 50.0 for name, task in VTAB_TASKS.items()}
        >>> vtab_means(scores)["mean"] == (7 * 70 + 12 * 50) / 19
        True
        >>> vtab_means({"patch_camelyon": 80, "eurosat": 90, "resisc45": 80, "diabetic_retinopathy": 70})
        {'specialized': 80.0}

    Source: Zhai et al., A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark, 2019;
        METHOD.md section 6.
    """
    unknown = [name for name in accuracies if name not in VTAB_TASKS]
    if unknown:
        raise ValueError(f"no VTAB-1k task is named {unknown[0]!r}; they are {', '.join(VTAB_TASKS)}")
    groups: dict[str, list[str]] = {"natural": [], "specialized": [], "structured": [], "mean": list(VTAB_TASKS)}
    for name, task in VTAB_TASKS.items():
        groups[task.group].append(name)
    return {
        group: sum(accuracies[name] for name in names) / len(names)
        for group, names in groups.items()
        if all(name in accuracies for name in names)
    }


class VTAB1kDataModule(ImageListDataModule):
    """A task of VTAB-1k in the usual layout: train800.txt, val200.txt, train800val200.txt and test.txt.

    ``search`` trains on 800 images and validates on 200, to choose settings. ``final`` trains on all 1,000 and tests,
    without validation, so that no setting is chosen by test images. The protocol is a resize to exactly 224 x 224
    without augmentation, which are the defaults; the normalization moves scores by points and is told with them.

    Args:
        path: the task's folder.
        mode: search or final.
        task: name of the task, which says how many classes there are; null: the folder's own name, where it is one.
        num_classes: how many classes, numbered from 0; null: as the task has.
        fields: those that all image data modules share.

    Raises:
        ValueError: the task is not known, or a value is out of range.

    Source: METHOD.md section 8.
    """

    def __init__(
        self,
        path: str,
        mode: Literal["search", "final"] = "final",
        task: str | None = None,
        num_classes: int | None = None,
        **fields: Any,
    ) -> None:
        if task is not None and task not in VTAB_TASKS:
            raise ValueError(f"data.task {task!r} is no VTAB-1k task; they are {', '.join(VTAB_TASKS)}")
        name = task or Path(path).expanduser().resolve().name
        if num_classes is None and name in VTAB_TASKS:
            num_classes = VTAB_TASKS[name].num_classes
        search = mode == "search"
        super().__init__(
            path,
            train_list="train800.txt" if search else "train800val200.txt",
            val_list="val200.txt" if search else None,
            test_list=None if search else "test.txt",
            num_classes=num_classes,
            **fields,
        )
        self.mode = mode
        self.task = name if name in VTAB_TASKS else None

    def describe(self) -> dict[str, object]:
        """Adds mode, task and the task's group."""
        group = None if self.task is None else VTAB_TASKS[self.task].group
        return {**super().describe(), "mode": self.mode, "task": self.task, "group": group}

"""Image data modules in a run: batches, classes, held-out rows, resuming, workers and processes."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from PIL import Image

from wegeft_pl.data import FGVCDataModule, ImageDataModule, ImageFolderDataModule

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
AUGMENTED = {"resize": "shorter", "resize_size": 20, "train_transform": "crop_flip"}


class Recorder(LightningModule):
    """A task that remembers every training batch, with a normalization of its own."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def input_normalization(self):
        return (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["indices"].tolist(), batch["pixel_values"].clone()))
        return (self.weight - batch["pixel_values"].mean()) ** 2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def test_batches(folder, fields):
    module = ImageFolderDataModule(str(folder), **fields)
    module.setup("fit")
    batches = list(module.val_dataloader())
    assert [tuple(batch["pixel_values"].shape) for batch in batches] == [(3, 3, 16, 16)]
    assert batches[0]["indices"].tolist() == batches[0]["labels"].tolist() == [0, 1, 2]
    for index, pixels in enumerate(batches[0]["pixel_values"]):
        path = module.image_path("val", index)
        assert path == str(folder / "val" / ("ant", "bee", "cow")[index] / "0.png")
        resized = Image.open(path).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(pixels.numpy(), np.moveaxis(np.asarray(resized), 2, 0) / 255, atol=1e-6)
    rows = [row for batch in module.train_dataloader() for row in batch["indices"].tolist()]
    assert sorted(rows) == list(range(12))
    assert rows != list(range(12))


def test_the_backbone_s_normalization(folder, fields):
    task = Recorder()
    module = ImageFolderDataModule(str(folder), **{**fields, "normalization": "backbone"})
    Trainer(accelerator="cpu", max_epochs=1, **QUIET).fit(task, datamodule=module)
    plain = ImageFolderDataModule(str(folder), **fields)
    plain.setup("fit")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in task.input_normalization())
    for (_, _, pixels), batch in zip(task.seen, plain.train_dataloader(), strict=True):
        torch.testing.assert_close(pixels, (batch["pixel_values"] - mean) / std)
    assert module.describe()["mean"] == [0.25, 0.5, 0.75]
    assert module.protocol == (
        "16 x 16, resize exact bicubic, train_transform none, normalization backbone (mean 0.25, 0.5, 0.75; std 0.5, "
        "0.25, 0.125)"
    )


def test_the_backbone_s_normalization_needs_a_task(folder, fields):
    module = ImageFolderDataModule(str(folder), **{**fields, "normalization": "backbone"})
    module.setup("fit")
    assert module.describe()["mean"] is None
    with pytest.raises(ValueError, match="there is no task; set it to imagenet, half or none"):
        module.train_dataloader()


def test_held_out_rows_keep_the_classes_shares(folder, fields):
    for number in range(3):
        (folder / "val" / ("ant", "bee", "cow")[number] / "0.png").unlink()
    split = {}
    for val_size in (0, 3):
        module = ImageFolderDataModule(str(folder), **fields, val_size=val_size, test_size=4)
        module.setup()
        names = {
            name: [module.image_path(name, row) for row in range(count)]
            for name, count in module.describe()["rows"].items()
        }
        assert len({path for paths in names.values() for path in paths}) == 12
        split[val_size] = names
    assert {name: len(paths) for name, paths in split[3].items()} == {"train": 5, "val": 3, "test": 4}
    assert split[0]["test"] == split[3]["test"]
    classes = Counter(path.split("/")[-2] for path in split[3]["test"])
    assert classes == {"ant": 2, "bee": 1, "cow": 1}


def test_held_out_rows_beside_the_data_s_own(folder, fields):
    with pytest.raises(
        ValueError, match=r"data\.val_size=2 holds rows out of train, but .*animals has val rows of its"
    ):
        ImageFolderDataModule(str(folder), **fields, val_size=2).setup()
    with pytest.raises(ValueError, match=r"data\.test_size=10 take too many rows out of train .*at most 9 of 12 rows"):
        ImageFolderDataModule(str(folder), **fields, test_size=10).setup()


def test_a_stage_without_rows(folder, fields):
    with pytest.raises(ValueError, match=r"needs test rows, and .*animals has none; add them, or .*data\.test_size"):
        ImageFolderDataModule(str(folder), **fields).setup("test")


def test_limits_take_from_the_classes_in_turn(folder, fields):
    module = ImageFolderDataModule(str(folder), **fields, limit_train=5, limit_val=2)
    module.setup("fit")
    paths = [module.image_path("train", row).split("/")[-2:] for row in range(5)]
    assert paths == [["ant", "0.png"], ["ant", "1.png"], ["bee", "0.png"], ["bee", "1.png"], ["cow", "0.png"]]
    assert module.describe()["rows"] == {"train": 5, "val": 2}
    assert module.class_names == ["ant", "bee", "cow"]


def test_a_class_that_train_lacks(folder, fields, save):
    extra = save("animals/val/dog/0.png", 55)
    with pytest.raises(
        ValueError, match=rf"{extra}: the class 'dog' is not among the 3 classes .*\(ant, bee, cow\).*data\.classes"
    ):
        ImageFolderDataModule(str(folder), **fields).setup("validate")
    module = ImageFolderDataModule(str(folder), **fields, classes=["cow", "dog", "bee", "ant"])
    module.setup("fit")
    assert [batch["labels"].tolist() for batch in module.val_dataloader()] == [[3, 2, 0, 1]]
    assert module.class_names == ["cow", "dog", "bee", "ant"]


def test_a_single_class(save, tmp_path, fields):
    save("one/train/ant/0.png")
    with pytest.raises(ValueError, match=r"one: all training rows have the label 'ant'; two classes are the least"):
        ImageFolderDataModule(str(tmp_path / "one"), **fields).setup("fit")


def test_what_a_record_says(folder, fields):
    module = ImageFolderDataModule(str(folder), **fields)
    assert module.describe()["num_classes"] is None
    module.setup("fit")
    about = json.loads(json.dumps(module.describe()))
    assert about["name"] == "ImageFolderDataModule"
    assert about["rows"] == {"train": 12, "val": 3}
    assert about["num_classes"] == 3
    assert set(about["sha256"]) == {"classes", "train", "val"}
    assert (about["normalization"], about["mean"], about["std"]) == ("none", [0, 0, 0], [1, 1, 1])
    assert {name: about[name] for name in ("image_size", "resize", "resize_size", "interpolation")} == {
        "image_size": 16,
        "resize": "exact",
        "resize_size": 16,
        "interpolation": "bicubic",
    }


def test_what_the_data_command_shows(folder, fields):
    module = ImageFolderDataModule(str(folder), **fields, **AUGMENTED)
    module.setup()
    shown = json.loads(json.dumps(module.preview(2)))
    assert shown["class_counts"] == {"train": {"ant": 6, "bee": 4, "cow": 2}, "val": {"ant": 1, "bee": 1, "cow": 1}}
    assert shown["batch"] == {"pixel_values": "float32 (4, 3, 16, 16)", "labels": "int64 (4,)", "indices": "int64 (4,)"}


def test_a_moved_copy_is_the_same_data(folder, fields, tmp_path):
    facts = []
    for name in ("here", "there"):
        folder = folder.rename(tmp_path / name)
        module = ImageFolderDataModule(str(folder), **fields)
        module.setup("fit")
        facts.append(module.describe()["sha256"])
    assert facts[0] == facts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size must be at least 1"),
        ({"num_workers": -1}, r"data\.num_workers must be at least 0"),
        ({"val_size": -1}, r"data\.val_size must be at least 0"),
        ({"limit_test": 0}, r"data\.limit_test must be at least 1"),
        ({"cache_limit_mib": 0}, r"data\.cache_limit_mib must be at least 1"),
    ],
)
def test_values_out_of_range(fields, changes, message):
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule("anywhere", **{**fields, **changes})


def test_workers_where_the_user_does_not_say(folder, fields, monkeypatch):
    module = ImageFolderDataModule(str(folder), **fields)
    module.setup("fit")
    assert module.workers(module._splits["train"]) == 0
    monkeypatch.setattr("wegeft_pl.data.vision.base.num_cpus", lambda: 64)
    module = ImageFolderDataModule(str(folder), **fields, cache_pixels=False)
    module.setup("fit")
    assert module.workers(module._splits["train"]) == 4
    assert ImageFolderDataModule(str(folder), **fields, num_workers=7).workers(module._splits["train"]) == 7


def test_workers_use_one_thread(folder, fields, monkeypatch):
    class Threads(ImageFolderDataModule):
        def make_collate(self, split):
            return lambda examples: torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    module = Threads(str(folder), **fields, num_workers=1)
    module.setup("fit")
    assert set(module.train_dataloader()) == {1}
    torch.set_num_threads(before)


def test_shared_fields_are_options_of_every_module():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    for module in (ImageFolderDataModule, FGVCDataModule):
        path = f"{module.__module__}.{module.__qualname__}"
        arguments = [f"--data={path}", "--data.path=x", "--data.image_size=32", "--data.cache_pixels=false"]
        arguments += ["--data.dataset=cub"] if module is FGVCDataModule else []
        config = parser.parse_args(arguments)
        made = module(**config.data.init_args)
        assert isinstance(made, ImageDataModule)
        assert made.size.image_size == 32
        assert made.reading.cache_pixels is False
        assert config.data.init_args.limit_val is None
        with pytest.raises(Exception, match="image_sice"):
            parser.parse_args([*arguments, "--data.image_sice=3"])
    with pytest.raises(TypeError, match="image_sice"):
        ImageFolderDataModule("x", image_sice=3)

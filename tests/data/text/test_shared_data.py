"""The data modules on real data: GSM8K and Shakespeare with a real small tokenizer."""

import json

import pytest

from wegeft_pl.data import GSM8KDataModule, PlainTextDataModule
from wegeft_pl.losses import labelled_positions

pytestmark = pytest.mark.slow


@pytest.fixture
def tokenizer_folder(shared):
    return str(shared / "weights" / "stories260K")


def test_gsm8k(shared, tokenizer_folder):
    module = GSM8KDataModule(str(shared / "data/text/gsm8k"), tokenizer=tokenizer_folder, val_size=200)
    module.setup()
    counts = module.describe()
    assert counts["rows"]["train"] + counts["dropped"]["train"] == 7473 - 200
    assert counts["rows"]["val"] == 200
    assert counts["rows"]["test"] == 1319
    labelled = sum(len(labelled_positions(batch["labels"])[1]) for batch in module.test_dataloader())
    assert labelled == counts["labelled_tokens"]["test"]
    references = {
        number: text for b in module.test_dataloader() for number, text in zip(b["id"], b["reference"], strict=True)
    }
    lines = (shared / "data/text/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [json.loads(line)["answer"].split("#### ")[1].replace(",", "") for line in lines]
    assert references == dict(enumerate(expected))


def test_shakespeare(shared, tokenizer_folder):
    module = PlainTextDataModule(str(shared / "data/text/tinyshakespeare"), tokenizer=tokenizer_folder)
    module.setup()
    counts = module.describe()
    assert counts["characters"] == {"train": 1003855, "val": 111539, "test": 111539}
    labelled = sum(len(labelled_positions(batch["labels"])[1]) for batch in module.val_dataloader())
    assert labelled == counts["labelled_tokens"]["val"] == counts["tokens"]["val"]

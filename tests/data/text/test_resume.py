"""Every way to make training batches goes on, in the middle of an epoch, with what was left of it."""

import pytest
import torch

from wegeft_pl.data import GSM8KDataModule

MODES = {
    "plain": {},
    "packing": {"packing": True, "max_length": 150},
    "grouping": {"group_by_length": True},
}


@pytest.fixture
def make(gsm8k_folder, make_tokenizer, tmp_path):
    """Makes a module of two rows a batch, or of another number on each of several processes."""

    def make(mode, batch_size=2, shares=(1, 0)):
        fields = MODES[mode] | {"streaming": True, "cache_dir": str(tmp_path / "cache")}
        module = GSM8KDataModule(str(gsm8k_folder), batch_size=batch_size, **fields)
        tokenizer = make_tokenizer("llama")
        module.resolve_tokenizer = lambda: tokenizer
        module.shares = lambda: shares
        module.setup("fit")
        return module

    return make


def served(batches):
    """The tokens of each row of each batch, as a set of tuples with their number, whoever had them."""
    return sorted(
        tuple(ids[mask.bool()].tolist())
        for batch in batches
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
        if (labels != -100).any()
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("then", [[(2, (1, 0))], [(1, (2, 0)), (1, (2, 1))], [(3, (1, 0))]])
def test_what_is_left_of_an_epoch(make, mode, then):
    first = make(mode)
    whole = list(first.train_dataloader())
    batches = iter(first.train_dataloader())
    had = [next(batches) for _ in range(2)]
    state = first.state_dict()
    rest = []
    for batch_size, shares in then:
        module = make(mode, batch_size, shares)
        module.load_state_dict(state)
        rest.append(list(module.train_dataloader()))
    assert len({len(own) for own in rest}) == 1
    assert served([*had, *(batch for own in rest for batch in own)]) == served(whole)
    if then == [(2, (1, 0))]:
        for mine, expected in zip(rest[0], whole[2:], strict=True):
            assert torch.equal(mine["input_ids"], expected["input_ids"])


def test_a_place_in_packed_rows_is_none_in_plain_ones(make):
    first = make("packing")
    next(iter(first.train_dataloader()))
    MODES["longer"] = {"max_length": 150}
    try:
        with pytest.raises(ValueError, match="this checkpoint was trained on other data: packing was True and is None"):
            make("longer").load_state_dict(first.state_dict())
    finally:
        del MODES["longer"]

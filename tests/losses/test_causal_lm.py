"""The token-weighted loss against a float64 oracle written with plain loops."""

import math

import pytest
import torch

from wegeft_pl.losses import IGNORED, causal_lm_loss, labelled_positions


def oracle(logits, labels):
    """Sum of -log p(next token) in float64, one position at a time, from whole (B, T, V) logits."""
    total, count = 0.0, 0
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            if labels[b, t + 1] != IGNORED:
                row = [float(value) for value in logits[b, t].double()]
                top = max(row)
                total += top + math.log(sum(math.exp(value - top) for value in row)) - row[int(labels[b, t + 1])]
                count += 1
    return total, count


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 7, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[0, :3] = IGNORED  # prompt
    labels[1, 5:] = IGNORED  # padding
    labels[2, 2] = IGNORED  # a hole
    return logits, labels


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)]
)
def test_the_sum_equals_the_oracle(batch, dtype, tolerance):
    logits, labels = batch
    logits = logits.to(dtype)  # the oracle sees the rounded logits: only the softmax is tested
    mask, picked = labelled_positions(labels)
    loss_sum, num_tokens = causal_lm_loss(logits[mask], picked)
    expected, count = oracle(logits, labels)
    assert num_tokens.item() == count == 4 + 4 + 5
    assert loss_sum.item() == pytest.approx(expected, rel=tolerance)
    assert loss_sum.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_it_equals_transformers_own_loss_times_the_count(batch):
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits, labels = batch
    mask, picked = labelled_positions(labels)
    loss_sum, num_tokens = causal_lm_loss(logits[mask].float(), picked)
    theirs = ForCausalLMLoss(logits.float(), labels, vocab_size=11)
    assert (loss_sum / num_tokens).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_sums_add_up_over_micro_batches_and_gradients_with_them(batch):
    logits, labels = batch
    gradients = []
    for chunks in (1, 3):
        leaf = logits.clone().requires_grad_()
        for part, label in zip(leaf.chunk(chunks), labels.chunk(chunks), strict=True):
            mask, picked = labelled_positions(label)
            causal_lm_loss(part[mask], picked)[0].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_label_on_the_first_token_and_the_last_position_never_count():
    mask, picked = labelled_positions(torch.tensor([[5, IGNORED, IGNORED], [IGNORED, IGNORED, 6]]))
    assert mask.tolist() == [[False, False, False], [False, True, False]]
    assert picked.tolist() == [6]


def test_no_label_gives_zero_with_a_gradient_path():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    mask, picked = labelled_positions(torch.full((2, 4), IGNORED))
    loss_sum, num_tokens = causal_lm_loss(logits[mask], picked)
    loss_sum.backward()
    assert loss_sum.item() == 0.0
    assert num_tokens.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_labels_among_the_selected_are_left_out():
    logits = torch.randn(3, 5, requires_grad=True)
    loss_sum, num_tokens = causal_lm_loss(logits, torch.full((3,), IGNORED))
    loss_sum.backward()
    assert (loss_sum.item(), num_tokens.item()) == (0.0, 0)
    assert torch.isfinite(logits.grad).all()


def test_one_token_sequences_have_nothing_to_predict():
    mask, picked = labelled_positions(torch.tensor([[3], [4]]))
    assert not mask.any()
    assert len(picked) == 0


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"labels must have shape \(batch, tokens\), got \(3,\)"):
        labelled_positions(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must have shapes \(N, V\) and \(N,\), got \(2, 3, 4\) and \(2, 3\)"):
        causal_lm_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="select the logits with labelled_positions"):
        causal_lm_loss(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64))

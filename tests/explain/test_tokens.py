"""Tokens at the ends of cluster maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.explain import cluster_directions, cluster_tokens, read_windows, token_markdown, token_table

TEXT = "the cat sat on the mat. a dog ran to the cat 12 times and 7 more.\n" * 6


def windows_of(tmp_path: Path, folder: Path, **options: Any) -> tuple[Any, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (tmp_path / "text.txt").write_text(TEXT)
    return tokenizer, read_windows(tmp_path / "text.txt", tokenizer, **({"max_length": 32, "limit": None} | options))


def test_windows(tmp_path: Path, llama_folder: Path) -> None:
    tokenizer, windows = windows_of(tmp_path, llama_folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert windows.shape == (len(ids) // 32, 32)
    assert windows.flatten().tolist() == ids[: windows.numel()]
    assert windows_of(tmp_path, llama_folder, limit=2)[1].tolist() == windows[:2].tolist()
    assert windows_of(tmp_path, llama_folder, max_length=9999)[1].shape == (1, len(ids))


def test_text_mistakes(tmp_path: Path, llama_folder: Path) -> None:
    tokenizer, _ = windows_of(tmp_path, llama_folder)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        read_windows(tmp_path / "text.txt", tokenizer, 0, None)
    with pytest.raises(ValueError, match=r"text: no file .*nowhere"):
        read_windows(tmp_path / "nowhere", tokenizer, 8, None)
    (tmp_path / "latin").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin is not UTF-8 \(.* at byte 3\)"):
        read_windows(tmp_path / "latin", tokenizer, 8, None)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty has no tokens"):
        read_windows(tmp_path / "empty", tokenizer, 8, None)


def test_ends_of_the_maps_equal_a_loop(tmp_path: Path, llama_folder: Path, llama: LlamaForCausalLM) -> None:
    tokenizer, windows = windows_of(tmp_path, llama_folder)
    adapter = inject(llama, AdapterConfig(["o_proj"], rank=3, zero="psi"))
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.normal_(std=0.3)
    found = cluster_tokens(llama, adapter.sites, windows, tokenizer, num_tokens=4, num_context=2, batch_size=3)
    assert [(each.layer[13], each.cluster) for each in found] == [(layer, c) for layer in "01" for c in range(3)]
    site = adapter.sites[1]
    kept = []
    site.module.register_forward_hook(lambda module, args, y: kept.append(y.detach()))
    with torch.no_grad():
        llama(windows)
    values = (kept[0].double() @ cluster_directions(site).double().T)[:, 1:, 2]  # without first tokens
    each = found[-1]
    scores = (values - values.mean()) / values.std(correction=0)
    best: dict[int, float] = {}
    for token, score in zip(windows[:, 1:].flatten().tolist(), scores.flatten().tolist(), strict=True):
        best[token] = max(best.get(token, -torch.inf), score)
    expected = sorted(best.items(), key=lambda item: -item[1])[:4]
    assert [token.token.strip() for token in each.highest] == [tokenizer.decode([t]).strip() for t, _ in expected]
    assert [token.score for token in each.highest] == pytest.approx([score for _, score in expected], abs=1e-3)
    assert each.lowest[0].score == pytest.approx(scores.min().item(), abs=1e-3)
    for token in each.highest:
        whole = "".join((token.before + token.token + token.after).split())
        assert whole in "".join(TEXT.split())  # the context is the text's own
    markdown = token_markdown(found, 2)
    assert markdown.count("\n") == 2 + 6
    assert f"[{each.highest[0].token}]" in markdown
    assert token_table(found, 2, "title").row_count == 6


def test_special_tokens_and_layers_without_tokens(tmp_path: Path, llama_folder: Path, llama: LlamaForCausalLM) -> None:
    tokenizer, _ = windows_of(tmp_path, llama_folder)
    adapter = inject(llama, AdapterConfig(["o_proj"], rank=2, zero="psi"))
    windows = torch.tensor([[5, 1, 6, 2, 7], [1, 8, 2, 9, 0]])
    found = cluster_tokens(llama, adapter.sites[:1], windows, tokenizer, num_tokens=99)
    assert {token.token.strip() for token in found[0].highest} == {tokenizer.decode([t]) for t in (6, 7, 8, 9)}
    with pytest.raises(ValueError, match="nothing but special tokens"):
        cluster_tokens(llama, adapter.sites[:1], torch.tensor([[5, 1, 2]]), tokenizer)
    site = adapter.sites[0]
    with pytest.raises(ValueError, match=r"16 features for each of \(2, 5\) tokens, and .*o_proj gives \(2, 16\)"):
        cluster_tokens(lambda ids: site.module(torch.ones(2, 16)), [site], windows, tokenizer)


def test_context_keeps_its_spaces_and_long_texts_are_no_news(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shared / "weights/stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Once upon a time there was a little girl who liked to play with her dog in the park. " * 40
    (tmp_path / "text.txt").write_text(text)
    windows = read_windows(tmp_path / "text.txt", tokenizer, 64, 4)
    assert "longer than" not in caplog.text  # the model's maximum is 512
    model = LlamaForCausalLM.from_pretrained(folder)
    adapter = inject(model, AdapterConfig(["o_proj"], rank=2, zero="psi", layers=[3]))
    found = cluster_tokens(model, adapter.sites, windows, tokenizer)
    for token in (*found[0].highest, *found[1].lowest):
        assert (token.before + token.token + token.after).replace("<s>", "").strip() in text

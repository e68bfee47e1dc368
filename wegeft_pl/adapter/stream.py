"""merge from files into files: no model is loaded, and the memory needed does not depend on the model's size.

Shard by shard, every tensor is copied byte for byte, or, where the adapter changes it, merged a few rows at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wegeft_pl.adapter.adapter import Adapter
from wegeft_pl.adapter.chunks import blocks
from wegeft_pl.adapter.files import TENSORS
from wegeft_pl.adapter.merge import check_mergeable
from wegeft_pl.adapter.merge_rows import RowSums, Scratch, merge_rows, replace_rows
from wegeft_pl.adapter.model_folder import copy_companions, set_config_dtype, write_index
from wegeft_pl.adapter.report import MergeReport
from wegeft_pl.adapter.row_change import (
    Across,
    RowChange,
    bias_change,
    moves_bias,
    report_name,
    sites_by_tensor,
    weight_change,
)
from wegeft_pl.adapter.tensor_writer import Spec, TensorWriter
from wegeft_pl.adapter.weight_files import TensorEntry, WeightFiles, read_header, read_rows
from wegeft_pl.adapter.workers import Workers

#: The tensors of each file to write, by the file's name.
Parts = Mapping[str, Sequence[TensorEntry]]

#: Dtypes that a change can be added to.
MERGEABLE = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class StreamedMerge:
    """The merge of one adapter into one base, tensor by tensor.

    Args:
        adapter: injected into the base's shapes on the meta device, its generators filled.
        entries: where each of the model's tensors lies, by its name in the model; tied names give one entry or several.
            What is trained in full may be in no file: a new head.
        adapter_folder: the adapter's own folder, for the values of ``also_train``.
        dtype: what all floating-point tensors become, or None to keep their own.

    Raises:
        ValueError: a target is quantised, or tied to another module.
    """

    def __init__(
        self, adapter: Adapter, entries: Mapping[str, TensorEntry], adapter_folder: Path, dtype: torch.dtype | None
    ) -> None:
        check_mergeable(adapter)
        self._dtype = dtype
        self._scratch = Scratch()
        self._sums: dict[str, RowSums] = {}
        self._new_dtypes: dict[str, torch.dtype] = {}
        by_tensor = sites_by_tensor(adapter)
        self._order = [report_name(tensor) for tensor in by_tensor]
        self._merges: dict[str, Callable[[TensorEntry, TensorWriter, Workers], None]] = {}
        for tensor, sites in by_tensor.items():
            weight, place = entries[tensor], sites[0].place
            if weight.dtype not in MERGEABLE:
                raise ValueError(
                    f"{weight.file}: {weight.name} is stored as {weight.dtype}, which a change cannot be added to; "
                    "merge into the original base"
                )
            exact = torch.promote_types(self._becomes(weight), torch.float32)
            change = partial(weight_change, sites, exact, partial(read_rows, weight, 0, _num_rows(weight)))
            self._merges[weight.name] = partial(self._merge, report_name(tensor), change)
            if moves_bias(sites[0]):
                # A bias is a detail of its layer: merged, not reported.
                bias = entries[f"{place.layer}.{place.bias}"]
                moved = partial(bias_change, sites, exact, partial(read_rows, bias, 0, _num_rows(bias)))
                self._merges[bias.name] = partial(self._merge, None, moved)
        trained = {id(parameter): name for name, parameter in adapter.trained.named_parameters()}
        values = {entry.name: entry for entry in read_header(adapter_folder / TENSORS)} if trained else {}
        for name, parameter in adapter.model.named_parameters(remove_duplicate=False):
            if id(parameter) in trained:
                own = trained[id(parameter)]
                self._order += [own] if own == name else []
                if name in entries:
                    self._merges[entries[name].name] = partial(self._replace, own, values[own])
                else:
                    self._new_dtypes[name] = adapter.trained.surroundings[own]
                    self._merges[name] = partial(self._replace, own, values[own])

    def write(self, parts: Parts, base: Path, output: Path, progress: Callable[[str], None]) -> None:
        """Writes all files, merged where the adapter changes them.

        Args:
            parts: what they hold.
            base: the base's folder.
            output: an empty folder.
            progress: told of each file once it is done.

        Raises:
            OSError: the disk is full, or a file cannot be read.
            ValueError: a file has become shorter meanwhile.
        """
        total = 0
        with Workers() as workers:
            for number, (file, listed) in enumerate(parts.items(), start=1):
                entries = {entry.name: entry for entry in listed}
                specs: dict[str, Spec] = {e.name: (self._becomes(e), e.shape) for e in entries.values()}
                writer = TensorWriter(output / file, specs)
                workers.at_exit(writer.abandon)
                for name, place in writer.entries.items():
                    merge = self._merges.get(name, self._copy)
                    merge(entries[name], writer, workers)
                    total += place.stop - place.start
                workers.finish(writer.close)
                progress(f"merged {file} ({number} of {len(parts)} files)")
        if len(parts) > 1:
            write_index(output, {entry.name: file for file, listed in parts.items() for entry in listed}, total, base)

    def report(self, base: str) -> MergeReport:
        """The report, once everything is written: ``base`` is the fingerprint in short."""
        return MergeReport(base, [self._sums[name].report(name) for name in self._order])

    def _becomes(self, entry: TensorEntry) -> torch.dtype:
        own = self._new_dtypes.get(entry.name, entry.dtype)
        return self._dtype if self._dtype is not None and own in MERGEABLE else own

    def _read(self, entry: TensorEntry, span: tuple[int, int]) -> Tensor:
        size = (span[1] - span[0]) * entry.row_bytes
        return read_rows(entry, *span, self._scratch.bytes("read", size))

    def _copy(self, entry: TensorEntry, writer: TensorWriter, workers: Workers) -> None:
        dtype = self._becomes(entry)

        def copy(span: tuple[int, int]) -> None:
            with torch.no_grad():
                writer.write_rows(entry.name, span[0], self._read(entry, span).to(dtype))

        for _ in workers.run(copy, _spans(entry)):
            pass

    def _merge(
        self,
        name: str | None,
        change_of: Callable[[], RowChange],
        entry: TensorEntry,
        writer: TensorWriter,
        workers: Workers,
    ) -> None:
        change, dtype = change_of(), self._becomes(entry)

        def share(across: Across, span: tuple[int, int]) -> Tensor:
            with torch.no_grad():
                return across.share(span[0], self._read(entry, span))

        def merge(span: tuple[int, int]) -> RowSums:
            with torch.no_grad():
                rows = self._read(entry, span)
                memory = self._scratch.bytes("merged", rows.numel() * dtype.itemsize)
                merged, sums = merge_rows(change, span[0], rows, dtype, self._scratch, memory)
            writer.write_rows(entry.name, span[0], merged)
            return sums

        for across in change.across:
            across.gather(workers.run(partial(share, across), _spans(entry)))
        sums = _total(workers.run(merge, _spans(entry)))
        if name is not None:
            self._sums[name] = sums

    def _replace(
        self, name: str, value: TensorEntry, entry: TensorEntry, writer: TensorWriter, workers: Workers
    ) -> None:
        def replace(span: tuple[int, int]) -> RowSums:
            with torch.no_grad():
                trained = read_rows(value, *span)
                # A new head has nothing to be compared with: all of it is change.
                base = torch.zeros_like(trained) if entry.name in self._new_dtypes else self._read(entry, span)
                rounded, sums = replace_rows(base, trained, self._becomes(entry), self._scratch)
            writer.write_rows(entry.name, span[0], rounded)
            return sums

        self._sums[name] = _total(workers.run(replace, _spans(entry)))


def merge_files(
    adapter: Adapter,
    entries: Mapping[str, TensorEntry],
    files: WeightFiles,
    adapter_folder: Path,
    output: Path,
    *,
    dtype: torch.dtype | None = None,
    progress: Callable[[str], None] = lambda line: None,
    as_model: bool = False,
) -> MergeReport:
    """Merges a saved adapter into a base's files.

    Args:
        adapter: injected into the base's shapes on the meta device and filled from ``adapter_folder``.
        entries: where each of the model's tensors lies, by its name in the model.
        files: the base's.
        adapter_folder: what :meth:`Adapter.save` wrote.
        output: an empty folder, to hold the merged files and whatever else is in the base's folder.
        dtype: what all floating-point tensors become, or None to keep their own.
        progress: told of each file once it is done.
        as_model: write the tensors that the model has, under its names, a new head among them, where a base is made
            into a classifier; else those that the base's files have, under theirs.

    Returns:
        The report, without a probe.

    Raises:
        ValueError: a target is quantised or tied to another module, or a file is broken.
        OSError: a file cannot be read or written.
    """
    with torch.no_grad():
        parts: Parts = {file.name: read_header(file) for file in files.files}
        if as_model:
            entries = _by_model_names(entries)
            parts = _model_parts(entries, adapter, adapter_folder, files)
        streamed = StreamedMerge(adapter, entries, adapter_folder, dtype)
        copy_companions(files.folder, output)
        if dtype is not None:
            set_config_dtype(output, dtype)
        streamed.write(parts, files.folder, output, progress)
    return streamed.report(adapter.fingerprint.short())


def _by_model_names(entries: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """The entries under the model's names; a tied tensor under the first of its names."""
    first: dict[tuple[Path, int], str] = {}
    for name, entry in entries.items():
        first.setdefault((entry.file, entry.start), name)
    return {name: dataclasses.replace(entry, name=first[entry.file, entry.start]) for name, entry in entries.items()}


def _model_parts(
    entries: Mapping[str, TensorEntry], adapter: Adapter, adapter_folder: Path, files: WeightFiles
) -> dict[str, list[TensorEntry]]:
    """What of each file is the model's, and in the last one what only the adapter has."""
    parts: dict[str, dict[str, TensorEntry]] = {file.name: {} for file in files.files}
    for entry in entries.values():
        parts[entry.file.name][entry.name] = entry
    trained = {name for name, _ in adapter.trained.named_parameters()}
    listed = [sorted(part.values(), key=lambda entry: entry.start) for part in parts.values()]
    listed[-1] += [e for e in read_header(adapter_folder / TENSORS) if e.name in trained and e.name not in entries]
    return dict(zip(parts, listed, strict=True))


def _num_rows(entry: TensorEntry) -> int:
    return entry.shape[0] if entry.shape else 1


def _spans(entry: TensorEntry) -> Iterator[tuple[int, int]]:
    return blocks(0, _num_rows(entry), entry.row_bytes)


def _total(parts: Iterable[RowSums]) -> RowSums:
    total = RowSums()
    for part in parts:
        total.include(part)
    return total

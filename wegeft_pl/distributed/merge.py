"""merge of a sharded model into final files, gathering nothing: each process writes the rows that it holds.

The files get their final size first; then every process merges its own rows and puts them in their places. Only the
generators (small) and, where a change mixes rows, products of R rows are exchanged. The model itself is only read.
Needs a file system that all processes share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from wegeft_pl.adapter import Adapter, MergeReport, check_mergeable
from wegeft_pl.adapter.chunks import blocks_of
from wegeft_pl.adapter.merge_rows import RowSums, Scratch, merge_rows, replace_rows
from wegeft_pl.adapter.model_folder import file_names, write_index
from wegeft_pl.adapter.owner import OWNER
from wegeft_pl.adapter.row_change import (
    RowChange,
    bias_change,
    moves_bias,
    report_name,
    sites_by_tensor,
    weight_change,
)
from wegeft_pl.adapter.sharded import local, reshard, rows_of, sum_over_processes, whole
from wegeft_pl.adapter.sites import Site
from wegeft_pl.adapter.tensor_writer import Spec, TensorWriter
from wegeft_pl.adapter.weight_files import TensorEntry, read_rows
from wegeft_pl.adapter.whole_folder import unfinished, whole_folder
from wegeft_pl.distributed.errors import SharedErrors


def merge_sharded(
    adapter: Adapter,
    folder: Path,
    finish: Callable[[Path, MergeReport], None],
    *,
    dtype: torch.dtype | None = None,
    base: Mapping[str, TensorEntry] | None = None,
) -> MergeReport:
    """Writes a sharded backbone with its adapter folded in; every process calls it. The backbone stays as it is.

    Args:
        adapter: attached to the sharded backbone.
        folder: to end up with, on a file system that all processes share; an earlier one is replaced.
        finish: called on the first process with the folder being filled, for everything beside the weights.
        dtype: what all floating-point tensors become, or None to keep the base's own.
        base: where the base's tensors lie, by name in the backbone, for the report on ``also_train``; None where the
            adapter holds the base's values itself.

    Returns:
        The report, the same on all processes.

    Raises:
        ValueError: a target is quantised, or tied to another module.
        OSError: a process could not write; raised on all of them, and the folder is as it was.
    """
    model = adapter.model
    check_mergeable(adapter)
    reshard(model)
    merging = _Merging(adapter, dtype, base)
    is_first = torch.distributed.get_rank() == 0
    errors = SharedErrors(f"could not write the merged model to {folder}", merging.device)
    placed = file_names({name: _num_bytes(spec) for name, spec in merging.specs.items()})
    with torch.no_grad(), ExitStack() as stack, ExitStack() as handles:
        with errors.caught():
            if is_first:
                stack.enter_context(whole_folder(folder, overwrite=True))
                merging.open(unfinished(folder), placed, handles, create=True)
        errors.agree()
        with errors.caught():
            if not is_first:
                merging.open(unfinished(folder), placed, handles, create=False)
        errors.agree()
        merging.write(errors)
        with errors.caught():
            merging.close()
        errors.agree()
        report = merging.report()
        with errors.caught():
            if is_first:
                if len(set(placed.values())) > 1:
                    write_index(unfinished(folder), placed, sum(map(_num_bytes, merging.specs.values())))
                finish(unfinished(folder), report)
                stack.pop_all().close()  # renames
        errors.agree()
    return report


def merged_names(model: nn.Module) -> dict[str, Tensor]:
    """A backbone's own parameters and saved buffers under the names that its library saves them by, tied ones once."""
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if OWNER not in name.split(".") and id(tensor) not in seen:
            seen.add(id(tensor))
            named[name] = tensor
    return named


class _Merging:
    """One merge: what each tensor becomes, and this process's part of it."""

    def __init__(self, adapter: Adapter, dtype: torch.dtype | None, base: Mapping[str, TensorEntry] | None) -> None:
        self.adapter, self.base, self._scratch = adapter, base, Scratch()
        self.tensors = merged_names(adapter.model)
        own = adapter.trained.surroundings
        self.specs: dict[str, Spec] = {
            name: (dtype if dtype and tensor.is_floating_point() else own.get(name, tensor.dtype), tuple(tensor.shape))
            for name, tensor in self.tensors.items()
        }
        sharded = next((tensor for tensor in self.tensors.values() if isinstance(tensor, DTensor)), None)
        self.device = torch.device("cpu") if sharded is None else torch.device(sharded.device_mesh.device_type)
        self.writers: dict[str, TensorWriter] = {}
        self.sums: dict[str, RowSums] = {}

    def open(self, folder: Path, placed: Mapping[str, str], handles: ExitStack, *, create: bool) -> None:
        """Makes or joins the files; ``handles`` closes them in the end, whatever happens."""
        for file in dict.fromkeys(placed.values()):
            specs = {name: spec for name, spec in self.specs.items() if placed[name] == file}
            writer = TensorWriter(folder / file, specs, create=create)
            handles.callback(writer.abandon)
            self.writers |= dict.fromkeys(specs, writer)

    def close(self) -> None:
        """Brings what was written to the disk."""
        for writer in dict.fromkeys(self.writers.values()):
            writer.close()

    def write(self, errors: SharedErrors) -> None:
        """Writes this process's rows of every tensor, in the same order everywhere.

        After an error of its own a process writes no more, but takes part in every exchange until all agree to stop.
        """
        left = dict.fromkeys(self.tensors)
        for name, sites in sites_by_tensor(self.adapter).items():
            exact, gathered = torch.promote_types(self.specs[name][0], torch.float32), _gathered(sites[0])
            weight = partial(whole, self.tensors[name].detach())
            self.sums[report_name(name)] = self._merge(name, weight_change(sites, exact, weight, gathered), errors)
            del left[name]
            if moves_bias(sites[0]):
                bias = f"{sites[0].place.layer}.{sites[0].place.bias}"
                values = partial(whole, self.tensors[bias].detach())
                self._merge(bias, bias_change(sites, exact, values, gathered), errors)
                del left[bias]
        for name, _ in self.adapter.trained.named_parameters():
            self.sums[name] = self._replace(name, errors)
            del left[name]
        for name in left:
            part, first = self._mine(name)
            for block in blocks_of(part):
                self._place(name, first + block.start, part[block].to(self.specs[name][0]), errors)
        errors.agree()

    def report(self) -> MergeReport:
        """Adds the sums up over the processes; a collective."""
        parts = [[sums.old, sums.change, sums.lost, sums.changed, sums.numel] for sums in self.sums.values()]
        together = sum_over_processes(torch.tensor(parts, dtype=torch.float64, device=self.device)).tolist()
        layers = [RowSums(*row).report(name) for name, row in zip(self.sums, together, strict=True)]
        return MergeReport(self.adapter.fingerprint.short(), layers)

    def _merge(self, name: str, change: RowChange, errors: SharedErrors) -> RowSums:
        part, first = self._mine(name)
        for across in change.across:
            blocks = blocks_of(part) or [slice(0, 0)]  # where there are no rows here, a product of nothing
            across.gather(across.share(first + block.start, part[block]) for block in blocks)
            across.product = sum_over_processes(across.product.to(self.device)).to(part.device)
        sums = RowSums()
        with errors.caught():  # out of memory on one process must not leave the others waiting
            for block in blocks_of(part):
                merged, own = merge_rows(change, first + block.start, part[block], self.specs[name][0], self._scratch)
                sums.include(own)
                self._place(name, first + block.start, merged, errors)
        return sums

    def _replace(self, name: str, errors: SharedErrors) -> RowSums:
        (part, first), sums = self._mine(name), RowSums()
        with errors.caught():  # the base's files may be gone or cut by now
            for block in blocks_of(part):
                base = self._base_rows(name, first + block.start, first + block.stop).to(part.device)
                rounded, own = replace_rows(base, part[block], self.specs[name][0], self._scratch)
                sums.include(own)
                self._place(name, first + block.start, rounded, errors)
        return sums

    def _mine(self, name: str) -> tuple[Tensor, int]:
        """The rows of a tensor that this process writes, and the index of the first one."""
        tensor = self.tensors[name].detach()
        rows, part = rows_of(tensor), local(tensor)
        part = part if part.ndim else part[None]
        speaks = rows.is_first_copy if isinstance(tensor, DTensor) else torch.distributed.get_rank() == 0
        return (part if speaks else part[:0]), rows.first

    def _place(self, name: str, first: int, rows: Tensor, errors: SharedErrors) -> None:
        if errors.own is None:
            with errors.caught():
                self.writers[name].write_rows(name, first, rows)

    def _base_rows(self, name: str, first: int, last: int) -> Tensor:
        if self.base is None:
            return self.adapter.trained.originals[name][first:last]
        return read_rows(self.base[name], first, last)


def _gathered(site: Site) -> Callable[[Tensor], Tensor]:
    device = local(site.module.get_parameter(site.place.parameter)).device
    return lambda tensor: whole(tensor).to(device)


def _num_bytes(spec: Spec) -> int:
    dtype, shape = spec
    return torch.Size(shape).numel() * dtype.itemsize

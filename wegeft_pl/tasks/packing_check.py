"""Whether a base keeps the samples of a packed row apart, looked at once, at the first batches that can show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wegeft_pl.adapter.sharded import sum_over_processes
from wegeft_pl.backbones import packing
from wegeft_pl.distributed import EveryRankError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PackingCheck:
    """Refuses packed batches for a base that mixes them up; a collective while it is not done."""

    def __init__(self) -> None:
        self._done = False

    def __call__(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> None:
        """Looks at a training batch.

        Args:
            model: the base with its adapter.
            batch: packed or not; of one that is not, nothing is asked.

        Raises:
            EveryRankError: the base's samples see each other; on all ranks alike.
        """
        if self._done or not packing.is_packed(batch):
            return
        try:
            packing.check_can_pack(model)
            largest = sum_over_processes(packing.measure_leak(model, batch))
            packing.refuse_leak(model, largest)
        except ValueError as error:
            raise EveryRankError(str(error)) from None
        # Rows of one sample each show nothing; then the next batch is looked at too.
        self._done = bool(largest[1] > 0)

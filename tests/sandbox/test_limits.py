from __future__ import annotations

import pytest

from wegeft_pl.sandbox import Limits


def test_units() -> None:
    limits = Limits(cpu_seconds=2, memory_mib=3, file_mib=1, disk_mib=4, num_processes=5, num_files=6)
    assert limits.for_child() == {
        "cpu_seconds": 2, "memory_bytes": 3145728, "file_bytes": 1048576, "disk_bytes": 4194304, "num_processes": 6,
        "num_files": 6,
    }  # fmt: skip


@pytest.mark.parametrize("field", ["wall_seconds", "cpu_seconds", "memory_mib", "num_processes"])
def test_limits_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be above 0, got 0"):
        Limits(**{field: 0})

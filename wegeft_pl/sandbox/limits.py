"""How much a program under test may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one trial.

    Args:
        wall_seconds: from start to verdict; generous, so that a busy machine decides no score.
        cpu_seconds: of processor time, for each process.
        memory_mib: address space of each process, and memory of all of them together.
        file_mib: largest file.
        disk_mib: all files together, where the system grants a file system in memory.
        num_processes: processes and threads beside the program itself.
        num_files: open files of each process.

    Raises:
        ValueError: a limit is not positive.
    """

    wall_seconds: float = 30.0
    cpu_seconds: int = 10
    memory_mib: int = 1024
    file_mib: int = 16
    disk_mib: int = 64
    num_processes: int = 8
    num_files: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    def for_child(self) -> dict[str, int]:
        """The limits that a child sets for itself, in the kernel's units."""
        return {
            "cpu_seconds": self.cpu_seconds,
            "memory_bytes": self.memory_mib << 20,
            "file_bytes": self.file_mib << 20,
            "disk_bytes": self.disk_mib << 20,
            "num_processes": self.num_processes + 1,
            "num_files": self.num_files,
        }

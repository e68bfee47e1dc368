"""Which images of a split can be read, and their pixels on disk where they are to be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wegeft_pl.data.cache_folder import default_cache_dir
from wegeft_pl.data.rows import missing
from wegeft_pl.data.tell import tell
from wegeft_pl.data.vision.decode import UnreadableImageError
from wegeft_pl.data.vision.pixels import CachedPixels, estimated_mib, find_unreadable, keep_pixels
from wegeft_pl.data.vision.stored import ImageRow
from wegeft_pl.data.vision.transforms import ImageSize

#: Where pixels are kept unless a recipe says otherwise.
CACHE_DIR = default_cache_dir("images")


@dataclass(frozen=True)
class Reading:
    """How the images of a data set are read.

    Args:
        size: how they are resized.
        unreadable: whether an image that is missing or broken stops the run or is left out.
        cache_pixels: whether resized pixels are kept on disk; auto: where they are at most ``cache_limit_mib``.
        cache_dir: where they are kept, and the answers to which images are broken; None: nowhere.
        cache_limit_mib: for each split.

    Raises:
        ValueError: pixels are to be kept, and nowhere.
    """

    size: ImageSize
    unreadable: Literal["error", "skip"]
    cache_pixels: bool | Literal["auto"]
    cache_dir: Path | None
    cache_limit_mib: int

    def __post_init__(self) -> None:
        if self.cache_pixels is True and self.cache_dir is None:
            raise ValueError(
                "data.cache_pixels keeps pixels on disk, but data.cache_dir is null; name a folder with room for them"
            )


@dataclass(frozen=True)
class ReadableRows:
    """The rows of a split that can be read.

    Args:
        rows: those, in order.
        cached: pixels on disk, or None.
        cached_rows: for each row its number in ``cached``.
        num_missing: rows left out because there is no such file.
        num_unreadable: rows left out because the file is no image.
    """

    rows: list[ImageRow]
    cached: CachedPixels | None
    cached_rows: list[int]
    num_missing: int
    num_unreadable: int


def readable_rows(split: str, rows: Sequence[ImageRow], reading: Reading, whole: bool) -> ReadableRows:
    """Leaves out what cannot be read, where that is wanted, and tells how much; keeps pixels, where that is wanted.

    Args:
        split: for messages.
        rows: of the split, at least one.
        reading: what is wanted.
        whole: whether whole images are used, so that resized pixels are of no use.

    Raises:
        FileNotFoundError: a file is missing, and nothing is to be left out.
        UnreadableImageError: a file is no image, and nothing is to be left out; without pixels kept on disk that comes
            out only where the image is used.
        ValueError: no image is left.
        OSError: the folder for pixels cannot be written.
    """
    skip = reading.unreadable == "skip"
    there = [row for row in rows if _exists(row)]
    absent = next((row for row in rows if not _exists(row)), None) if len(there) < len(rows) else None
    reasons = [] if absent is None else [f"{absent.place}: {missing(Path(absent.image.name))}"]
    if reasons and not skip:
        raise FileNotFoundError(f"{reasons[0]}; correct the list, or set data.unreadable to skip")
    cached = None if whole else _kept_pixels(split, there, reading)
    broken: dict[int, str] = {}
    if cached is not None:
        broken = cached.unreadable
    elif skip:
        broken = _broken(there, reading)
    if broken and not skip:
        raise UnreadableImageError(next(iter(broken.values())))
    numbers = [number for number in range(len(there)) if number not in broken]
    reasons += broken.values()
    num_missing = len(rows) - len(there)
    if not numbers:
        raise ValueError(f"{split}: none of {len(rows)} images can be read; the first: {reasons[0]}")
    if reasons:
        tell(
            f"{split}: {num_missing + len(broken):,} of {len(rows):,} images left out, {num_missing:,} missing and "
            f"{len(broken):,} unreadable; the first: {reasons[0]}"
        )
    return ReadableRows([there[number] for number in numbers], cached, numbers, num_missing, len(broken))


def _exists(row: ImageRow) -> bool:
    try:
        row.image.stamp()
    except FileNotFoundError:
        return False
    return True


def _kept_pixels(split: str, rows: Sequence[ImageRow], reading: Reading) -> CachedPixels | None:
    if reading.cache_pixels is False or reading.cache_dir is None or not rows:
        return None
    wanted = estimated_mib(len(rows), reading.size)
    auto = reading.cache_pixels == "auto"
    if wanted > reading.cache_limit_mib:
        if not auto:
            raise ValueError(
                f"{split}: the pixels take {wanted:,.0f} MiB, more than data.cache_limit_mib="
                f"{reading.cache_limit_mib}; raise it, or set data.cache_pixels to auto or false"
            )
        tell(
            f"{split}: the pixels would take {wanted:,.0f} MiB, more than data.cache_limit_mib="
            f"{reading.cache_limit_mib}; images are decoded each time"
        )
        return None
    try:
        return keep_pixels([row.image for row in rows], reading.size, reading.cache_dir)
    except OSError as error:
        if not auto:
            raise OSError(
                f"cannot keep pixels in {reading.cache_dir} ({error}); name another folder in data.cache_dir, or set "
                "data.cache_pixels to false"
            ) from error
        tell(f"{split}: cannot keep pixels in {reading.cache_dir} ({error}); images are decoded each time")
        return None


def _broken(rows: Sequence[ImageRow], reading: Reading) -> dict[int, str]:
    try:
        return find_unreadable([row.image for row in rows], reading.cache_dir)
    except OSError as error:
        raise OSError(
            f"cannot keep in {reading.cache_dir} which images are unreadable ({error}); name another folder in "
            "data.cache_dir, or set data.unreadable to error"
        ) from error

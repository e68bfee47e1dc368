"""Tokens kept between runs, under a name that changes with everything they depend on."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from lightning.pytorch.utilities import rank_zero_only

from wegeft_pl.data.cache_folder import default_cache_dir
from wegeft_pl.data.text.token_store import VERSION, BrokenStoreError, TokenStore, write_store
from wegeft_pl.data.text.tokenize import Encodable, EncodedExample

#: Where tokens are kept unless a recipe says otherwise.
CACHE_DIR = default_cache_dir("tokens")
#: Fewer samples than this are tokenised faster than a cache is worth.
CACHE_FROM = 1000


def cache_key(
    tokenizer: str,
    max_length: int,
    train_on_prompt: bool,
    samples: Iterable[Encodable],
    settings: tuple[object, ...] = (),
) -> str:
    """Names tokens by what they are made of: the texts themselves, the tokenizer and how they are encoded.

    Args:
        tokenizer: its fingerprint.
        max_length: of the encoder.
        train_on_prompt: likewise.
        samples: all of them; pairs with their templates applied.
        settings: of the encoder.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(repr((VERSION, tokenizer, max_length, train_on_prompt, *settings)).encode())
    for sample in samples:
        for text in sample.texts:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def cached(
    cache_dir: Path, key: str, make: Callable[[], Iterable[EncodedExample]], say: Callable[[str], None]
) -> TokenStore:
    """Opens the tokens of a key, or makes them first.

    Processes that want the same tokens wait for the one that makes them. A store is written beside its place and then
    moved there whole; one that is cut or changed is made again.

    Args:
        cache_dir: made if need be.
        key: of :func:`cache_key`.
        make: tokenises everything, in order.
        say: gets a line about a broken store.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    place = cache_dir / key[:32]
    with _held(place.with_suffix(".lock")):
        if place.exists():
            try:
                store = TokenStore(place)
                store.check()
                return store
            except BrokenStoreError as error:
                say(f"token cache {place} is broken ({error}); its texts are tokenised again")
                shutil.rmtree(place)
        for left in cache_dir.glob(f"{place.name}.*.tmp"):  # of a run that was killed: nobody else holds the lock
            shutil.rmtree(left, ignore_errors=True)
        fresh = Path(mkdtemp(prefix=f"{place.name}.", suffix=".tmp", dir=cache_dir)) / "store"
        try:
            write_store(fresh, make())
            fresh.rename(place)
        finally:
            shutil.rmtree(fresh.parent, ignore_errors=True)
    return TokenStore(place)


def cached_or_held(
    cache_dir: Path | None, key: str, make: Callable[[], Iterable[EncodedExample]], say: Callable[[str], None]
) -> Sequence[EncodedExample]:
    """Does as :func:`cached`, and holds the tokens in memory where no folder is given or it cannot be written.

    Args:
        cache_dir: None: memory.
        key: see there.
        make: see there; called anew after a failure to write.
        say: gets a line about that too.
    """
    if cache_dir is None:
        return list(make())
    try:
        return cached(cache_dir, key, make, say)
    except OSError as error:
        say(f"no token cache in {cache_dir} ({error.strerror or error}); set data.cache_dir to a folder or null")
        return list(make())


@rank_zero_only
def say_once(text: str) -> None:
    """Prints a line, on the first process alone."""
    print(text)


@contextmanager
def _held(file: Path) -> Iterator[None]:
    """Holds a lock for as long as the block runs, however the process ends; some file systems know no locks."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):
            fcntl.lockf(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""What the edited layers put out in one pass of a model, kept by hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from wegeft_pl.adapter import Site


@contextmanager
def collect_outputs(sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """Keeps the output of every site's layer, the adapter's change included.

    Args:
        sites: whose layers are called once inside the context.

    Yields:
        A dict that fills during the forward pass: the layer's output, detached, by site name.

    Raises:
        ValueError: at the end, for a layer that was not called, or called more than once, for no maps can be told then.
    """
    outputs: dict[str, Tensor] = {}
    calls: dict[str, int] = {site.name: 0 for site in sites}

    def keep(name: str, module: nn.Module, args: tuple[Any, ...], y: Any) -> None:
        calls[name] += 1
        if not isinstance(y, Tensor):
            raise ValueError(
                f"cluster maps need layers that put out one tensor, and {name} gives a {type(y).__name__}; leave it "
                "out with --layers"
            )
        outputs[name] = y.detach()

    # Hooks run in the order they were registered, so behind the adapter's own.
    handles = [site.module.register_forward_hook(partial(keep, site.name)) for site in sites]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
    for name, count in calls.items():
        if count != 1:
            how = "is read without being called" if count == 0 else f"is called {count} times in one pass"
            raise ValueError(f"cluster maps need layers that are called once in a pass, and {name} {how}")


def choose_sites(sites: Sequence[Site], layers: Sequence[str] | None) -> list[Site]:
    """The sites that a user names.

    Args:
        sites: all of an adapter.
        layers: whole names, or trailing or leading parts of names at dots (``"7"`` is in ``blocks.7.attn.proj``); None
            means all.

    Raises:
        ValueError: an entry names no site.
    """
    if layers is None:
        return list(sites)
    matching: Callable[[str, str], bool] = lambda entry, name: f".{entry}." in f".{name}."  # noqa: E731
    for entry in layers:
        if not any(matching(entry, site.name) for site in sites):
            names = ", ".join(site.name for site in sites[:3])
            raise ValueError(
                f"layers: {entry!r} names no edited layer; the adapter edits {len(sites)}, such as {names}"
            )
    return [site for site in sites if any(matching(entry, site.name) for entry in layers)]

"""Contact sheets: one row an image, its maps beside it, as the authors draw them.

Shapes: N images, K maps, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wegeft_pl.explain.maps import min_max, segment, upsample
from wegeft_pl.explain.required import require

#: What a map's region is drawn over: the image, this much darker outside of it.
DARKER = 0.25


def contact_sheet(
    images_N3HW: Tensor,  # noqa: N803
    maps_NKhw: Tensor,  # noqa: N803
    title: str,
    shown: Sequence[int] | None = None,
    target_NHW: Tensor | None = None,  # noqa: N803
    cell_pixels: int = 72,
) -> Tensor:
    """Draws a sheet of one layer.

    Every map is interpolated to the image's size, stretched to [0, 1] and cut at one half: inside the image is tinted
    by the map, outside it is darkened. The last column is the K-way segmentation by all K maps.

    Args:
        images_N3HW: uint8.
        maps_NKhw: of any scale.
        title: above the sheet.
        shown: which maps get a column; None means all.
        target_NHW: bool, the object's outline is drawn around it where it is given.
        cell_pixels: size of one picture on the sheet.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: matplotlib is not installed.

    Source: METHOD.md section 5.
    """
    figures: Any = require("matplotlib.figure")
    canvases: Any = require("matplotlib.backends.backend_agg")  # no window, and no state of pyplot's
    height, width = images_N3HW.shape[2:]
    stretched = min_max(upsample(maps_NKhw, height, width))
    segments = segment(stretched)
    columns = list(range(maps_NKhw.shape[1])) if shown is None else list(shown)
    colours = images_N3HW.permute(0, 2, 3, 1).float() / 255
    dots_per_inch, heading = 100, 34
    pixels = ((len(columns) + 2) * cell_pixels, len(images_N3HW) * cell_pixels + heading)
    figure = figures.Figure(figsize=(pixels[0] / dots_per_inch, pixels[1] / dots_per_inch), dpi=dots_per_inch)
    top = 1 - heading / pixels[1]
    figure.suptitle(title, fontsize=8, y=0.995, va="top")
    axes = figure.subplots(
        len(images_N3HW),
        len(columns) + 2,
        squeeze=False,
        gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": top, "wspace": 0.02, "hspace": 0.02},
    )
    for row, cells in enumerate(axes):
        for cell in cells:
            cell.set_axis_off()
        cells[0].imshow(colours[row].numpy(), aspect="auto")
        if target_NHW is not None and target_NHW[row].any() and not target_NHW[row].all():
            cells[0].contour(target_NHW[row].float().numpy(), levels=[0.5], colors="lime", linewidths=0.8)
        for cell, index in zip(cells[1:-1], columns, strict=True):
            cell.imshow(_overlay(colours[row], stretched[row, index]).numpy(), aspect="auto")
        cells[-1].imshow(segments[row].numpy(), cmap="tab20", vmin=0, vmax=19, aspect="auto", interpolation="nearest")
    for cell, text in zip(axes[0], ["image", *(f"map {index}" for index in columns), "argmax"], strict=True):
        cell.set_title(text, fontsize=6, pad=2)
    canvas = canvases.FigureCanvasAgg(figure)
    canvas.draw()
    drawn = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return drawn.reshape(*reversed(canvas.get_width_height()), 4)[..., :3].clone()


def write_png(picture_HW3: Tensor, path: Path) -> None:  # noqa: N803
    """Writes a picture.

    Args:
        picture_HW3: uint8.
        path: its folder is made where it does not exist.

    Raises:
        OSError: the file cannot be written.
    """
    pillow: Any = require("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = picture_HW3.shape
    pillow.frombytes("RGB", (width, height), picture_HW3.contiguous().numpy().tobytes()).save(path, optimize=True)


def _overlay(colours_HW3: Tensor, stretched_HW: Tensor) -> Tensor:  # noqa: N803
    value = stretched_HW[..., None]
    # From orange at the cut to yellow at the top, over half of the image's own colour.
    heat = torch.cat([torch.ones_like(value), 0.25 + 0.75 * (2 * value - 1).clamp(0, 1), torch.zeros_like(value)], 2)
    return torch.where(value > 0.5, 0.55 * colours_HW3 + 0.45 * heat, DARKER * colours_HW3)

"""``wegeft_pl clusters``: what an adapter's clusters look at: maps over images with scores, or tokens of a text."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from wegeft_pl.adapter import Adapter, files, load_adapter
from wegeft_pl.adapter.storage import write_json
from wegeft_pl.adapter.whole_folder import whole_folder
from wegeft_pl.backbones import build, huggingface, image_models
from wegeft_pl.cli import base_model
from wegeft_pl.cli.failure import UsageError
from wegeft_pl.cli.light_parser import LightParser
from wegeft_pl.cli.quiet import silence_chatter
from wegeft_pl.explain import (
    Scores,
    choose_sites,
    cluster_tokens,
    compare_layer,
    compare_nothing,
    draw_layers,
    image_files,
    image_size_of,
    layer_grids,
    normalise,
    normalization_of,
    read_images,
    read_masks,
    read_windows,
    score_markdown,
    score_table,
    token_markdown,
    token_table,
    tokenizer_of,
)

#: The folder that is written where none is given, beside the adapter's.
FOLDER = "clusters"


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: the arguments after ``clusters``.

    Returns:
        The exit code.
    """
    silence_chatter()
    options = _parser().parse_args(argv)
    if (options.images is None) == (options.text is None):
        raise UsageError("give either --images DIR or --text FILE; see `wegeft_pl clusters --help`")
    if options.masks is not None and options.images is None:
        raise UsageError("--masks belongs to --images")
    adapter_folder = _adapter_folder(options.adapter)
    output = options.output or adapter_folder.parent / FOLDER
    base_model.claim_output(output)
    name = options.base or files.base_name_of(adapter_folder)
    if name is None:
        raise ValueError(f"{adapter_folder} does not name its base; give it with --base")
    with whole_folder(output) as building:
        report = _images if options.images is not None else _text
        facts = report(options, adapter_folder, name, building)
    facts |= {"path": str(output), "base": name}
    if options.json:
        json.dump(facts, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print(f"written: {output}")
    return 0


def _images(options: Namespace, adapter_folder: Path, name: str, output: Path) -> dict[str, Any]:
    found = image_files(options.images, options.limit)
    model, adapter = _image_model(options, adapter_folder, name)
    sites = choose_sites(adapter.sites, options.layers)
    size = options.image_size or image_size_of(model)
    masks = None
    left_out: list[str] = []
    if options.masks is not None:
        masks = read_masks(found, options.images, options.masks, size, options.object_value, options.ignored_value)
        known = masks.has_object
        left_out = [str(file) for file, kept in zip(found, known.tolist(), strict=True) if not kept]
        for file in left_out:
            print(f"warning: {file} is left out: its mask has no pixel of the object", file=sys.stderr)
        found = [file for file, kept in zip(found, known.tolist(), strict=True) if kept]
        masks = masks.only(known)
    pixels = read_images(found, size)
    mean, std = normalization_of(options.normalization, name)
    grids = layer_grids(model, sites, normalise(pixels, mean, std))
    sheets = draw_layers(sites, grids, pixels, output, options.num_images, options.num_maps, masks)
    with SummaryWriter(output / "tensorboard") as writer:
        for layer, sheet in sheets.items():
            writer.add_image(f"clusters/{layer}", sheet.numpy(), dataformats="HWC")
    facts: dict[str, Any] = {
        "images": len(found),
        "left_out": left_out,
        "image_size": size,
        "normalization": {"name": options.normalization, "mean": list(mean), "std": list(std)},
        "pictures": [f"{layer}.png" for layer in sheets],
    }
    if masks is not None:
        scores: dict[str, dict[str, Scores]] = {"none": compare_nothing(masks, options.tolerance)}
        for site in sites:
            scores[site.name] = compare_layer(site, grids[site.name], masks, options.draws, options.tolerance)
        facts["tolerance_pixels"] = options.tolerance
        facts["scores"] = {
            layer: {maps: score.to_dict() for maps, score in found.items()} for layer, found in scores.items()
        }
        (output / "scores.md").write_text(score_markdown(scores), encoding="utf-8")
        if not options.json:
            title = f"maps chosen on {(len(pixels) + 1) // 2} images, scored on {len(pixels) // 2}"
            Console().print(score_table(scores, title))
    write_json(output / "clusters.json", facts)
    return facts


def _text(options: Namespace, adapter_folder: Path, name: str, output: Path) -> dict[str, Any]:
    tokenizer = tokenizer_of(name)
    windows = read_windows(options.text, tokenizer, options.max_length, options.limit)  # before loading gigabytes
    model = huggingface.load(name, causal_lm=not options.headless)
    sites = choose_sites(load_adapter(model.eval(), adapter_folder).sites, options.layers)
    found = cluster_tokens(model, sites, windows, tokenizer, options.num_tokens)
    facts = {"tokens": windows.numel(), "clusters": [each.to_dict() for each in found]}
    markdown = token_markdown(found, options.num_tokens)
    (output / "clusters.md").write_text(markdown, encoding="utf-8")
    write_json(output / "clusters.json", facts)
    with SummaryWriter(output / "tensorboard") as writer:
        writer.add_text("clusters", markdown)
    if not options.json:
        Console().print(token_table(found, 4, f"ends of the cluster maps over {windows.numel():,} tokens"))
    return facts


def _image_model(options: Namespace, adapter_folder: Path, name: str) -> tuple[nn.Module, Adapter]:
    about = files.read_about(adapter_folder)
    num_classes = about.get("num_classes") if options.num_classes is None else options.num_classes
    weights = options.weights
    if weights is None and options.base is None and about.get("weights") != image_models.RANDOM:
        weights = about.get("weights")  # the file that training read
    if num_classes is not None:
        model, notes = image_models.load(name, num_classes, weights=weights)
        for note in notes:
            print(note, file=sys.stderr)
    elif options.weights is not None:
        raise ValueError(
            f"{adapter_folder} does not say how many classes its base has, which --weights {options.weights} needs: "
            "give --num_classes"
        )
    else:
        model = build(name)
    return model.eval(), load_adapter(model, adapter_folder)


def _adapter_folder(folder: Path) -> Path:
    """The adapter folder itself, of a run folder as well."""
    if (folder / "adapter" / files.CONFIG).is_file():
        return folder / "adapter"
    if not folder.is_dir():
        raise FileNotFoundError(f"no adapter folder {folder}")
    files.read_description(folder)  # a broken adapter is refused before a model is loaded
    return folder


def _parser() -> LightParser:
    parser = LightParser(prog="wegeft_pl clusters", description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder of a run, or the run folder")
    parser.add_argument("--base", help="the base: timm name, folder or hub id (default: the one the adapter names)")
    parser.add_argument("--output", type=Path, help=f"folder to write (default: {FOLDER} beside the adapter)")
    parser.add_argument("--layers", nargs="+", help="names of edited layers, or parts of them (default: all)")
    parser.add_argument(
        "--limit", type=int, default=64, help="images, spread evenly over the folder, or windows of text (default: 64)"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    images = parser.add_argument_group("images")
    images.add_argument("--images", type=Path, help="folder of images, with the folders in it")
    images.add_argument("--weights", help="file of a timm base's weights (default: the adapter's)")
    images.add_argument("--num_classes", type=int, help="classes of the base's classifier (default: as trained)")
    images.add_argument("--image_size", type=int, help="side of the squares in pixels (default: the base's)")
    images.add_argument(
        "--normalization",
        choices=["backbone", "imagenet", "half", "none"],
        default="backbone",
        help="of the pixels, as in training (default: what the base was pretrained with)",
    )
    images.add_argument("--num_images", type=int, default=8, help="rows of a picture (default: 8)")
    images.add_argument("--num_maps", type=int, default=16, help="columns of a picture (default: 16)")
    images.add_argument("--masks", type=Path, help="folder of PNG label maps named like the images: scores the maps")
    images.add_argument("--object_value", type=int, default=1, help="label of the object in a mask (default: 1)")
    images.add_argument("--ignored_value", type=int, help="label that does not count (3 in the pets' trimaps)")
    images.add_argument("--tolerance", type=int, default=15, help="of the pointing game, in pixels (default: 15)")
    images.add_argument("--draws", type=int, default=3, help="of random directions to compare with (default: 3)")
    text = parser.add_argument_group("text")
    text.add_argument("--text", type=Path, help="text file, UTF-8")
    text.add_argument("--max_length", type=int, default=256, help="tokens of a window (default: 256)")
    text.add_argument("--num_tokens", type=int, default=8, help="for each end of each map (default: 8)")
    text.add_argument("--headless", action="store_true", help="the adapter was trained on a model without an LM head")
    return parser

"""What the adapter's clusters look at, drawn when training ends: maps over images, or tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng

from wegeft_pl.accounting import preserved_modes
from wegeft_pl.adapter import Adapter
from wegeft_pl.adapter.storage import write_json
from wegeft_pl.callbacks.reporting import (
    Report,
    ReportingCallback,
    adapter_in,
    is_sharded,
    is_trial,
    log_text,
    run_folder,
    task_of,
)
from wegeft_pl.explain import (
    choose_sites,
    cluster_tokens,
    draw_layers,
    image_files,
    image_size_of,
    layer_grids,
    normalise,
    normalization_of,
    read_images,
    read_windows,
    token_markdown,
    tokenizer_of,
)

#: The folder's name in the run folder.
FOLDER = "clusters"


class ClusterMaps(ReportingCallback):
    """Draws the cluster maps of every edited layer at the end of a fit, into ``clusters/`` and TensorBoard.

    Over images: one contact sheet for each layer, a row an image, a column a map, and the segmentation by all maps.
    Over a text: the tokens at both ends of every map, as a Markdown table. ``python -m wegeft_pl clusters`` does the
    same for a saved adapter, and scores maps against masks. The first process draws, the others wait.

    Args:
        images: folder of images, with the folders in it; null where a text is given.
        text: text file, UTF-8; null where images are given.
        layers: names of edited layers, or parts of them at dots; null for all.
        limit: images, spread evenly over the folder, or windows of the text.
        image_size: side of the square images in pixels; null for the backbone's own.
        normalization: of the pixels, as in training; ``backbone`` for what the backbone was pretrained with.
        num_maps: columns of a sheet; of more maps those that spread most are shown.
        num_tokens: for each end of each map.
        max_length: tokens of a window of text.

    Raises:
        ValueError: not exactly one of images and text is given.
    """

    def __init__(
        self,
        images: str | None = None,
        text: str | None = None,
        layers: Sequence[str] | None = None,
        limit: int = 8,
        image_size: int | None = None,
        normalization: Literal["backbone", "imagenet", "half", "none"] = "backbone",
        num_maps: int = 16,
        num_tokens: int = 8,
        max_length: int = 256,
    ) -> None:
        if (images is None) == (text is None):
            raise ValueError(f"ClusterMaps needs either images or text, got images {images!r} and text {text!r}")
        self.images = images
        self.text = text
        self.layers = layers
        self.limit = limit
        self.image_size = image_size
        self.normalization = normalization
        self.num_maps = num_maps
        self.num_tokens = num_tokens
        self.max_length = max_length
        self._path: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds out before training whether the end will work.

        Raises:
            ValueError: the module is no task, the strategy shards weights, or there are no images or no text.
        """
        name = task_of(self, pl_module).backbone_name
        if stage != "fit":
            return
        if is_sharded(trainer):
            raise ValueError(
                f"ClusterMaps needs whole weights, and {type(trainer.strategy).__name__} shards them; leave it out "
                "and run python -m wegeft_pl clusters on the saved adapter"
            )
        if self.images is not None:
            image_files(Path(self.images), self.limit)
            normalization_of(self.normalization, name)
        elif not Path(str(self.text)).is_file():
            raise ValueError(f"text: no file {self.text}")
        elif name is None:
            raise ValueError("ClusterMaps over a text needs the tokenizer of a backbone with a name; name the backbone")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the layers, once the adapter is there.

        Raises:
            ValueError: an entry of ``layers`` names none.
        """
        choose_sites(adapter_in(self, pl_module).sites, self.layers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws on rank 0 while the others wait."""
        if is_trial(trainer):
            return
        if trainer.is_global_zero:
            adapter, name = adapter_in(self, pl_module), task_of(self, pl_module).backbone_name
            folder = run_folder(trainer) / FOLDER
            with isolate_rng(), preserved_modes(pl_module), trainer.precision_plugin.forward_context():
                pl_module.eval()
                if self.images is not None:
                    self._draw(trainer, adapter, name, folder)
                else:
                    self._tabulate(trainer, adapter, str(name), folder)
            self._path = str(folder)
        trainer.strategy.barrier("clusters drawn")

    def report(self) -> Report:
        """``paths.clusters``."""
        return {"paths": {"clusters": self._path}} if self._path is not None else {}

    def _draw(self, trainer: Trainer, adapter: Adapter, name: str | None, folder: Path) -> None:
        sites = choose_sites(adapter.sites, self.layers)
        size = self.image_size or image_size_of(adapter.model)
        pixels = read_images(image_files(Path(str(self.images)), self.limit), size)
        mean, std = normalization_of(self.normalization, name)
        grids = layer_grids(adapter.model, sites, normalise(pixels, mean, std))
        sheets = draw_layers(sites, grids, pixels, folder, num_images=len(pixels), num_maps=self.num_maps)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for layer, sheet in sheets.items():
                    logger.experiment.add_image(
                        f"clusters/{layer}", sheet.numpy(), trainer.global_step, dataformats="HWC"
                    )

    def _tabulate(self, trainer: Trainer, adapter: Adapter, name: str, folder: Path) -> None:
        sites = choose_sites(adapter.sites, self.layers)
        tokenizer = tokenizer_of(name)
        windows = read_windows(Path(str(self.text)), tokenizer, self.max_length, self.limit)
        found = cluster_tokens(adapter.model, sites, windows, tokenizer, self.num_tokens)
        markdown = token_markdown(found, self.num_tokens)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clusters.md").write_text(markdown, encoding="utf-8")
        write_json(folder / "clusters.json", {"clusters": [each.to_dict() for each in found]})
        log_text(trainer, "clusters", markdown)

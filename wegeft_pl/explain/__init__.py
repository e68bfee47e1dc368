"""Seeing what an adapter learned: cluster maps over images, tokens of clusters in text, and their scores."""

from wegeft_pl.explain.compare import compare_layer, compare_nothing
from wegeft_pl.explain.directions import cluster_directions, random_directions
from wegeft_pl.explain.draw import draw_layers
from wegeft_pl.explain.images import Masks, image_files, normalise, read_images, read_masks
from wegeft_pl.explain.inputs import image_size_of, normalization_of, tokenizer_of
from wegeft_pl.explain.maps import layer_grids, maps_of, min_max, segment, strongest, upsample
from wegeft_pl.explain.outputs import choose_sites, collect_outputs
from wegeft_pl.explain.scores import Estimate, Scores, every_other, score_images, summarise
from wegeft_pl.explain.tables import score_markdown, score_table, token_markdown, token_table
from wegeft_pl.explain.tokens import ClusterTokens, Found, cluster_tokens, read_windows

__all__ = [
    "ClusterTokens",
    "Estimate",
    "Found",
    "Masks",
    "Scores",
    "choose_sites",
    "cluster_directions",
    "cluster_tokens",
    "collect_outputs",
    "compare_layer",
    "compare_nothing",
    "draw_layers",
    "every_other",
    "image_files",
    "image_size_of",
    "layer_grids",
    "maps_of",
    "min_max",
    "normalise",
    "normalization_of",
    "random_directions",
    "read_images",
    "read_masks",
    "read_windows",
    "score_images",
    "score_markdown",
    "score_table",
    "segment",
    "strongest",
    "summarise",
    "token_markdown",
    "token_table",
    "tokenizer_of",
    "upsample",
]

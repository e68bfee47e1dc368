"""A layer's output as a grid over the image: which tokens are patches, and where they lie.

Shapes: B images, T tokens, O out features, h and w the grid, H and W the image in pixels.
"""

from __future__ import annotations

from torch import Tensor

from wegeft_pl.adapter import Site

#: More tokens than this before the patches are no class token and registers of any model in use.
MAX_PREFIX_TOKENS = 8


def patch_grid(num_tokens: int, height: int, width: int) -> tuple[int, int, int]:
    """Finds the patch grid that a sequence of tokens holds.

    The patches are the largest grid of square patches that the image divides into and the sequence has room for; what
    is left over are prefix tokens (class, distillation, registers), which come first.

    Args:
        num_tokens: T.
        height: H in pixels.
        width: W in pixels.

    Returns:
        The number of prefix tokens, h and w.

    Raises:
        ValueError: no grid fits with at most 8 prefix tokens.

    Example:
        >>> patch_grid(197, 224, 224), patch_grid(261, 224, 224), patch_grid(49, 224, 224)
        ((1, 14, 14), (5, 16, 16), (0, 7, 7))
    """
    for patch in range(1, min(height, width) + 1):
        if height % patch or width % patch:
            continue
        h, w = height // patch, width // patch
        if h * w <= num_tokens:
            if num_tokens - h * w <= MAX_PREFIX_TOKENS:
                return num_tokens - h * w, h, w
            break
    raise ValueError(
        f"{num_tokens} tokens are no grid of square patches of a {height} x {width} image with at most "
        f"{MAX_PREFIX_TOKENS} tokens before them; give an image_size that the patch size divides"
    )


def to_grid(y: Tensor, site: Site, num_images: int, height: int, width: int) -> Tensor:
    """Brings a layer's output into the shape (B, O, h, w), prefix tokens dropped.

    Args:
        y: a convolution's (B, O, h, w); a linear layer's tokens (B, T, O) or grid (B, h, w, O); of all parts of a
            fused layer.
        site: whose output it is.
        num_images: B.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Raises:
        ValueError: the output is one vector an image, or cut into windows.
    """
    if y.ndim not in (3, 4) or len(y) != num_images:
        raise ValueError(
            f"cluster maps need a layer's output as tokens or a grid for every image, and {site.name} gives the shape "
            f"{tuple(y.shape)} for {num_images} images; leave it out with --layers"
        )
    y = site.layout.take(y)  # a part of a fused projection has features of its own
    if site.layout.kind == "conv2d":
        return y
    if y.ndim == 4:
        return y.permute(0, 3, 1, 2)
    prefix, h, w = patch_grid(y.shape[1], height, width)
    return y[:, prefix:].transpose(1, 2).unflatten(2, (h, w))

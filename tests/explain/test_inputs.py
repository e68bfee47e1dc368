"""What a base asks of its inputs."""

from __future__ import annotations

import pytest

from wegeft_pl.explain import image_size_of, normalization_of


@pytest.mark.usefixtures("timm")
def test_normalization() -> None:
    assert normalization_of("half", None) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalization_of("backbone", "vit_tiny_patch16_224") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalization_of("backbone", "resnet18")[0] == (0.485, 0.456, 0.406)
    with pytest.raises(ValueError, match="normalization: 'halff' is not one of imagenet, half, none, backbone"):
        normalization_of("halff", None)
    with pytest.raises(ValueError, match="backbone needs a backbone with a name; choose one of imagenet"):
        normalization_of("backbone", None)


def test_image_size(timm: object) -> None:
    import timm as library

    assert image_size_of(library.create_model("test_vit")) == 160
    model = library.create_model("test_vit")
    model.pretrained_cfg["input_size"] = (3, 160, 128)
    with pytest.raises(ValueError, match="drawn of square images, and this model takes 160 x 128"):
        image_size_of(model)

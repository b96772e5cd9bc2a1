"""Each way of resizing positions is its origin's, to 1e-6; and they are not one another's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.models.load import load
from isopatch.models.resize import MODES, ResizeMode, mean_norms, resize_table
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec

DIM = 24
# 24 x 24 is 384 pixels, 12 x 20 is 192 x 320; 7 x 28 has as many places as 14 x 14.
GRIDS = [
    ((14, 14), (24, 24)),
    ((14, 14), (12, 20)),
    ((14, 14), (7, 28)),
    ((8, 18), (12, 12)),
    ((14, 14), (7, 7)),
]

Grid = tuple[int, int]


def jax(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """vit_jax, checkpoint.py: scipy's zoom of order 1 over the grid."""
    ndimage = pytest.importorskip("scipy.ndimage")
    image = table[0, 1:].reshape(*old, -1).double().numpy()
    resized = ndimage.zoom(image, (new[0] / old[0], new[1] / old[1], 1), order=1)
    return torch.cat(
        (table[:, :1], torch.from_numpy(resized.astype(np.float32)).reshape(1, -1, table.shape[2])), 1
    )


def deit(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """deit main.py, --finetune: bicubic on (1, C, rows, cols), corners not aligned."""
    image = table[:, 1:].reshape(-1, *old, table.shape[2]).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def timm(table: Tensor, old: Grid, new: Grid) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = pytest.importorskip("timm.layers")
    resized: Tensor = layers.resample_abs_pos_embed(
        table, new_size=list(new), old_size=list(old), num_prefix_tokens=1
    )
    return resized


def hf(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """transformers' own module; it assumes that the old grid is square."""
    if old[0] != old[1]:
        pytest.skip("transformers takes the square root of the number of places")
    transformers = pytest.importorskip("transformers")
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    config = transformers.ViTConfig(
        hidden_size=table.shape[2], image_size=old[0] * 16, patch_size=16, num_attention_heads=2
    )
    embeddings = ViTEmbeddings(config)
    with torch.no_grad():
        embeddings.position_embeddings.copy_(table)
        tokens = torch.zeros(1, 1 + math.prod(new), table.shape[2])
        resized: Tensor = embeddings.interpolate_pos_encoding(tokens, new[0] * 16, new[1] * 16)
    if math.prod(new) == math.prod(old) and torch.equal(resized, table):
        pytest.skip("transformers does not resample as many places on a grid of another shape")
    return resized


ORIGINS: dict[str, Callable[[Tensor, Grid, Grid], Tensor]] = {
    "jax": jax,
    "deit": deit,
    "timm": timm,
    "hf": hf,
}


def table_of(grid: Grid) -> Tensor:
    return torch.randn(1, 1 + math.prod(grid), DIM, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_its_origin(mode: str, old: Grid, new: Grid) -> None:
    table = table_of(old)
    resized = resize_table(table, old, new, 1, mode)
    expected = ORIGINS[mode](table, old, new)
    assert resized.shape == expected.shape == (1, 1 + math.prod(new), DIM)
    assert float((resized - expected).abs().max()) <= 1e-6
    assert torch.equal(resized[:, 0], table[:, 0])


@pytest.mark.parametrize("mode", MODES)
def test_a_deit_small_loads_at_192x320(mode: ResizeMode, tmp_path: Path) -> None:
    model = build(make_spec("deit_small_patch16_224", {"depth": 1, "num_classes": 3}))
    save_model(tmp_path, model)
    loaded = load(tmp_path, image_size=(192, 320), position_resize=mode)
    table = model.state_dict()["position.table"]
    expected = ORIGINS[mode](table, (14, 14), (12, 20))
    assert expected.shape == (1, 1 + 240, 384)
    assert float((loaded.state_dict()["position.table"] - expected).abs().max()) <= 1e-6
    assert loaded(torch.randn(1, 3, 192, 320)).shape == (1, 3)


def test_the_modes_are_not_one_another() -> None:
    table = table_of((14, 14))
    resized = {mode: resize_table(table, (14, 14), (24, 24), 1, mode) for mode in ("jax", "deit", "timm")}
    for first, second in (("jax", "deit"), ("jax", "timm"), ("deit", "timm")):
        assert float((resized[first] - resized[second]).abs().max()) > 1e-2


def test_bicubic_keeps_the_length_of_the_vectors_better_than_bilinear() -> None:
    table = table_of((14, 14))
    lost = {}
    for mode in ("jax", "deit"):
        norms = mean_norms(table, resize_table(table, (14, 14), (24, 24), 1, mode), 1)
        assert norms.before == pytest.approx(DIM**0.5, rel=0.05)
        lost[mode] = norms.before - norms.after
    assert lost["jax"] > lost["deit"] > 0


def test_float64_is_resized_in_float64() -> None:
    table = table_of((14, 14)).double()
    exact = resize_table(table, (14, 14), (24, 24), 1, "deit")
    assert exact.dtype == torch.float64
    assert not torch.equal(exact, resize_table(table.float(), (14, 14), (24, 24), 1, "deit").double())


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(UsageError, match="position_resize 'bicubic': choose one of jax, deit, timm, hf"):
        resize_table(table_of((2, 2)), (2, 2), (3, 3), 1, "bicubic")  # type: ignore[arg-type]

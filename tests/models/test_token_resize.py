"""Token-MLPs on a grid of several times their own: the parts of the picture, each as the weights know it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from isopatch.errors import UsageError
from isopatch.models import token_resize
from isopatch.models.formats.timm import from_isopatch
from isopatch.models.load import fit, load, read_weights
from isopatch.models.resize import Change
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.models.token_resize import places_of_parts
from isopatch.nn.classifier import Classifier

SMALL: dict[str, Any] = {"dim": 12, "depth": 2, "patch_size": 4, "num_classes": 3}
MODELS: dict[str, dict[str, Any]] = {"mlp_mixer": {}, "resmlp": {"layer_scale": 1.0}, "gmlp": {}}


def saved(folder: Path, architecture: str, image_size: Any) -> Classifier:
    model = build(make_spec(architecture, {**SMALL, **MODELS[architecture], "image_size": image_size})).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():  # the gates of a fresh gMLP and a fresh classifier do nothing
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_model(folder, model)
    return model


def parts_of(x: Tensor, rows: int, cols: int) -> list[Tensor]:
    """The pictures in a picture (B, C, H, W)."""
    return [part for band in x.chunk(rows, dim=2) for part in band.chunk(cols, dim=3)]


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize(("old", "rows", "cols"), [((8, 12), 2, 2), ((8, 12), 1, 3), ((12, 12), 2, 1)])
def test_every_part_is_mixed_as_the_weights_know_it(
    tmp_path: Path, architecture: str, old: tuple[int, int], rows: int, cols: int
) -> None:
    model = saved(tmp_path, architecture, old).double()
    loaded = load(tmp_path, image_size=(old[0] * rows, old[1] * cols)).double()
    x = torch.randn(2, 3, old[0] * rows, old[1] * cols, dtype=torch.float64)
    with torch.no_grad():
        alone = torch.stack([model(part) for part in parts_of(x, rows, cols)])
        torch.testing.assert_close(loaded(x), alone.mean(dim=0), atol=1e-12, rtol=0)
        maps = [model.features(part).map for part in parts_of(x, rows, cols)]
        whole = loaded.features(x).map
        for part, expected in zip(parts_of(whole, rows, cols), maps, strict=True):
            torch.testing.assert_close(part, expected, atol=1e-12, rtol=0)


def test_blocks_along_the_diagonal_alone_would_mix_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: copies in the order of the places, not of the parts, give other logits."""
    model = saved(tmp_path, "mlp_mixer", 8).double()
    monkeypatch.setattr(token_resize, "places_of_parts", lambda old, new: torch.arange(16).reshape(4, 4))
    loaded = load(tmp_path, image_size=16).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        alone = torch.stack([model(part) for part in parts_of(x, 2, 2)]).mean(dim=0)
        assert float((loaded(x) - alone).abs().max()) > 1e-3


def test_places_of_parts() -> None:
    assert places_of_parts((1, 2), (2, 4)).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert places_of_parts((2, 2), (4, 4)).tolist()[:2] == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_what_was_done_is_said_once_and_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, "mlp_mixer", 16)
    changes: list[Change] = []
    with caplog.at_level(logging.INFO, logger="isopatch"):
        loaded = fit(read_weights(tmp_path), image_size=32, changes=changes).model
    assert changes == [Change("token maps", "one block per part", (4, 4), (8, 8))]
    assert caplog.text.count("token maps taken from a 4x4 grid to 8x8") == 1
    assert loaded.spec.arguments["token_ratio"] == 2.0
    save_model(tmp_path / "large", loaded)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load(tmp_path / "large")(x), loaded(x))


@pytest.mark.parametrize("dim", [12, 7, 50, 333])
def test_the_wider_token_mlp_has_exactly_the_copies(tmp_path: Path, dim: int) -> None:
    """A width is a rounded multiple of dim: the factor must not lose a unit."""
    arguments = {**SMALL, "dim": dim, "depth": 1, "image_size": 8, "token_ratio": 0.7}
    model = build(make_spec("mlp_mixer", arguments))
    save_model(tmp_path, model)
    width = model.state_dict()["blocks.0.token.mixer.mlp.fc1.weight"].shape[0]
    for times in (2, 3):
        loaded = load(tmp_path, image_size=8 * times)
        weight = loaded.state_dict()["blocks.0.token.mixer.mlp.fc1.weight"]
        assert weight.shape == (width * times**2, 4 * times**2)


def test_a_foreign_mixer(tmp_path: Path) -> None:
    model = build(make_spec("mixer_s32_224", {"depth": 1, "image_size": 64, "num_classes": 3})).eval()
    save_file(from_isopatch(model.state_dict(), "mlp_mixer"), tmp_path / "mixer.safetensors")
    loaded = load(
        tmp_path / "mixer.safetensors", name="mixer_s32_224", image_size=128, arguments={"depth": 1}
    )
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        alone = torch.stack([model(part) for part in parts_of(x, 2, 2)]).mean(dim=0)
        torch.testing.assert_close(loaded(x), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "asked", "words"),
    [
        (
            "mlp_mixer",
            {"image_size": 24},
            r"a 4x4 grid, not of 6x6: only whole multiples .* \(8x8, 4x8, ...\)",
        ),
        ("resmlp", {"image_size": 8}, "a 4x4 grid, not of 2x2: only whole multiples"),
        ("gmlp", {"image_size": (16, 24)}, "a 4x4 grid, not of 4x6"),
        ("gmlp", {"image_size": (8, 32)}, "a 4x4 grid, not of 2x8"),  # as many places
        (
            "mlp_mixer",
            {"arguments": {"patch_size": 2}},
            "a 4x4 grid, not of 8x8: with another patch_size, change",
        ),
    ],
)
def test_other_grids_are_refused_by_name(
    tmp_path: Path, architecture: str, asked: dict[str, Any], words: str
) -> None:
    saved(tmp_path, architecture, 16)
    with pytest.raises(UsageError, match=words) as refused:
        load(tmp_path, **asked)
    assert "\n" not in str(refused.value)


def test_a_fixed_random_map_has_one_grid(tmp_path: Path) -> None:
    arguments = {**SMALL, "image_size": 16, "token_mixer": "random"}
    save_model(tmp_path, build(make_spec("metaformer", arguments)))
    with pytest.raises(UsageError, match="a 4x4 grid, not of 8x8, and a fixed random map has no other size"):
        load(tmp_path, image_size=32)

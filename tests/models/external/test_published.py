"""Published weights by name, without a network: from the caches, and what is said where there are none."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isopatch.api import evaluate_checkpoint
from isopatch.errors import IsopatchError, UsageError
from isopatch.models.load import load
from isopatch.models.locate import locate

timm = pytest.importorskip("timm")

CONFIG = {
    "architecture": "test_resnet",
    "num_classes": 1000,
    "pretrained_cfg": {
        "tag": "r160_in1k",
        "input_size": [3, 96, 96],
        "crop_pct": 0.9,
        "mean": [0.4, 0.4, 0.4],
    },
}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and a network that must not be used."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return tmp_path


def on_the_hub(folder: Path, repository: str) -> nn.Module:
    """Lay timm's weights out as the hub's cache does."""
    model: nn.Module = timm.create_model("test_resnet").eval()
    base = folder / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = base / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("abc123")
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), snapshot / "model.safetensors")
    return model


def at_pytorch(folder: Path, name: str = "resnet18") -> tuple[Path, nn.Module]:
    """Put a file where torch.hub keeps torchvision's; returns it without the digest in its name."""
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None).eval()
    path = folder / "torch" / "hub" / "checkpoints" / "resnet18.pth"
    path.parent.mkdir(parents=True)
    torch.save(model.state_dict(), path)
    return path, model


@pytest.mark.parametrize(
    "source",
    ["timm:test_resnet", "timm:test_resnet.r160_in1k", "timm/test_resnet.r160_in1k"],
)
def test_a_name_means_timms_published_weights(offline: Path, source: str) -> None:
    model = on_the_hub(offline, "timm/test_resnet.r160_in1k")
    loaded = load(source)
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(loaded(x), model(x))
    assert loaded.spec.name == (source if source.startswith("timm:") else "timm:test_resnet")
    assert (loaded.spec.input.height, loaded.spec.input.crop_fraction) == (96, 0.9)
    assert load(source, num_classes=3, image_size=64)(x).shape == (2, 3)


def test_the_models_name_may_only_confirm(offline: Path) -> None:
    on_the_hub(offline, "timm/test_resnet.r160_in1k")
    assert load("timm:test_resnet", name="timm:test_resnet").spec.name == "timm:test_resnet"
    with pytest.raises(UsageError, match="timm:test_resnet and timm:resnet18 are two models"):
        load("timm:test_resnet", name="timm:resnet18")


def test_torchvisions_file_is_verified_and_read(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    plain, model = at_pytorch(offline)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    file = plain.rename(plain.with_name(f"resnet18-{digest}.pth"))
    weights = ResNet18_Weights.DEFAULT
    changed = type(weights.value)(f"https://example.org/{file.name}", weights.transforms, weights.meta)
    monkeypatch.setattr(weights, "_value_", changed)
    x = torch.randn(2, 3, 64, 64)
    loaded = load("torchvision:resnet18")
    assert torch.equal(loaded(x), model(x)) and loaded.spec.input.interpolation == "bilinear"
    assert load("torchvision:resnet18", num_classes=2)(x).shape == (2, 2)
    content = bytearray(file.read_bytes())
    content[-20_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(IsopatchError, match="damaged, its SHA-256 is not the one in its name; delete it"):
        load("torchvision:resnet18")


def test_what_cannot_be_reached_is_one_line(offline: Path) -> None:
    for source, message in (
        ("timm:resnet18", r"hub model timm/resnet18\.a1_in1k: config\.json is not in the cache"),
        ("torchvision:resnet18", r"resnet18-f37072fd\.pth: not in the cache .* and cannot be reached"),
        ("timm:gcvit_tiny", r"https://github\.com/.*: not in the cache .* and cannot be reached"),
    ):
        with pytest.raises(IsopatchError, match=message) as error:
            load(source)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["timm:botnet50ts_256", "vit_small_patch16_224", "deit_tiny", "convmixer"])
def test_a_model_without_weights_is_refused(source: str) -> None:
    expected = f"{source} is a model without weights here: give a run, a file or a hub id"
    for attempt in (locate, load, lambda name: evaluate_checkpoint(name, "digits")):
        with pytest.raises(UsageError) as error:
            attempt(source)
        assert str(error.value) == expected


def test_a_path_of_that_name_comes_first(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(offline)
    (offline / "deit_tiny").mkdir()
    with pytest.raises(UsageError, match="deit_tiny: neither a run nor a checkpoint"):
        locate("deit_tiny")


def test_a_name_that_does_not_exist_is_told_as_such() -> None:
    with pytest.raises(UsageError, match="timm has no 'resnet'"):
        load("timm:resnet")


def test_weights_without_a_classifier_ask_for_one(offline: Path) -> None:
    on_the_hub(offline, "timm/test_resnet.r160_in1k")
    path = offline / "backbone.safetensors"
    model = timm.create_model("test_resnet", num_classes=0)
    save_file(model.state_dict(), path)
    with pytest.raises(UsageError, match="has no classifier; give num_classes"):
        load(path, name="timm:test_resnet")
    assert load(path, name="timm:test_resnet", num_classes=4)(torch.randn(1, 3, 32, 32)).shape == (1, 4)

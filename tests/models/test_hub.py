"""Hub ids without a network: the cache is honoured, what is not there is one clear line."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.timm import from_isopatch
from isopatch.models.load import load
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

CONFIG = {
    "architecture": "deit_tiny_patch16_224",
    "num_classes": 5,
    "pretrained_cfg": {"input_size": [3, 32, 32]},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def fill(cache: Path, repository: str, *, safetensors: bool = True) -> Isotropic:
    """Lay out a repository as the hub's cache does."""
    model = build(make_spec("deit_tiny", {"image_size": 32, "num_classes": 5})).eval()
    base = cache / f"models--{repository.replace('/', '--')}"
    snapshot = base / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("abc123")
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    state = from_isopatch(model.state_dict(), "deit")
    if safetensors:
        save_file(state, snapshot / "model.safetensors")
    else:
        (base / ".no_exist" / "abc123").mkdir(parents=True)
        (base / ".no_exist" / "abc123" / "model.safetensors").touch()
        torch.save(state, snapshot / "pytorch_model.bin")
    return model


@pytest.mark.parametrize(
    "source", ["timm/deit_tiny_patch16_224.fb_in1k", "hf-hub:timm/deit_tiny_patch16_224.fb_in1k"]
)
@pytest.mark.parametrize("safetensors", [True, False])
def test_the_cache_serves_offline(cache: Path, source: str, safetensors: bool) -> None:
    model = fill(cache, "timm/deit_tiny_patch16_224.fb_in1k", safetensors=safetensors)
    loaded = load(source)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))
    assert loaded.spec.name == "deit_tiny_patch16_224"
    assert load(source, num_classes=2)(x).shape == (2, 2)


def test_what_is_not_cached_is_one_line(cache: Path) -> None:
    with pytest.raises(
        IsopatchError, match=r"hub model timm/nothing: config\.json is not in the cache"
    ) as error:
        load("timm/nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["hf-hub:not a name", "hf-hub:", "hf-hub:a/b/c"])
def test_impossible_ids_are_one_line(cache: Path, source: str) -> None:
    with pytest.raises(IsopatchError, match="hub model"):
        load(source)


def test_a_plain_owner_and_name_is_a_path(cache: Path) -> None:
    with pytest.raises(
        UsageError, match="owner/name: no such file or folder; weights of the hub are given as"
    ):
        load("owner/name")


def test_no_network_falls_back_to_the_cache_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    asked = []

    def unreachable(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    fill(cache, "timm/deit_tiny_patch16_224.fb_in1k")
    load("timm/deit_tiny_patch16_224.fb_in1k")
    assert asked
    with pytest.raises(IsopatchError, match="the hub cannot be reached"):
        load("timm/nothing")

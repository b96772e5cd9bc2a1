"""Folders that transformers wrote are read to the same logits, and what is written back it reads itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.transformers import from_isopatch
from isopatch.models.load import load

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 72,
    "image_size": 32,
    "patch_size": 8,
}
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}


def saved(folder: Path, kind: str, **changes: Any) -> Any:
    """A model of theirs with random weights, saved by themselves."""
    config_class = transformers.ViTConfig if kind.startswith("ViT") else transformers.DeiTConfig
    labels = {
        "id2label": dict(enumerate("abcde")),
        "label2id": {n: i for i, n in enumerate("abcde")},
    }
    model = getattr(transformers, kind)(config_class(**{**SIZES, **labels, **changes})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ViTForImageClassification", {}),
        ("ViTForImageClassification", {"layer_norm_eps": 1e-3, "qkv_bias": False, "hidden_act": "gelu_new"}),
        ("DeiTForImageClassificationWithTeacher", {}),
    ],
)
def test_their_folder_gives_their_logits(
    tmp_path: Path, kind: str, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    theirs = saved(tmp_path, kind, **changes).to(dtype)
    ours = load(tmp_path).to(dtype)
    assert ours.spec.classes == tuple("abcde")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    results = []
    for model in (ours, lambda picture: theirs(picture).logits):
        picture = x.clone().requires_grad_()
        logits = model(picture)
        (gradient,) = torch.autograd.grad(logits.square().sum(), picture)
        results.append((logits.detach(), gradient))
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True)]
    assert max(errors) <= LIMITS[dtype], errors


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher"])
def test_what_is_written_they_read(tmp_path: Path, kind: str) -> None:
    theirs = saved(tmp_path, kind)
    ours = load(tmp_path)
    state = from_isopatch(ours.state_dict(), distilled=kind.startswith("DeiT"))
    other = getattr(transformers, kind)(theirs.config)
    saved_names = set(load_names(tmp_path))
    assert state.keys() == saved_names
    from safetensors.torch import save_file

    save_file(
        {key: tensor.contiguous() for key, tensor in state.items()},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    other = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(other(x).logits, theirs(x).logits)


def load_names(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return list(file.keys())


def test_the_preprocessor_becomes_the_input_contract(tmp_path: Path) -> None:
    saved(tmp_path, "ViTForImageClassification")
    told = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    contract = load(tmp_path).spec.input
    assert contract.mean == (0.1, 0.2, 0.3) and contract.interpolation == "bilinear"
    assert (contract.crop_fraction, contract.resize) == (0.8, "shorter")
    told |= {"do_center_crop": False, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    contract = load(tmp_path).spec.input
    assert (contract.crop_fraction, contract.resize) == (1.0, "squash")


def test_another_size_and_another_class_count(tmp_path: Path) -> None:
    saved(tmp_path, "DeiTForImageClassificationWithTeacher")
    model = load(tmp_path, num_classes=3, image_size=(48, 32))
    assert model(torch.zeros(1, 3, 48, 32)).shape == (1, 3)


def test_their_default_epsilon_matters(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "ViTForImageClassification", layer_norm_eps=1e-3)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wrong = load(tmp_path, arguments={"norm_eps": 1e-6})(x)
        assert float((wrong - theirs(x).logits).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["ViTMAEForPreTraining"]}, "ViTMAEForPreTraining is not read"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' has no counterpart"),
    ],
)
def test_what_has_no_counterpart_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    saved(tmp_path, "ViTForImageClassification")
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message):
        load(tmp_path)


def test_a_name_may_only_confirm(tmp_path: Path) -> None:
    saved(tmp_path, "ViTForImageClassification")
    with pytest.raises(UsageError, match="holds a vit, not convmixer_768_32: leave the name out"):
        load(tmp_path, name="convmixer_768_32")


def test_two_classes_are_their_default_and_not_written(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "ViTForImageClassification", id2label=None, label2id=None, num_labels=2)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    ours = load(tmp_path)
    assert (ours.spec.arguments["num_classes"], ours.spec.classes) == (2, None)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert float((ours(x) - theirs(x).logits).abs().max()) <= 1e-5


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("config.json", {"hidden_size": None}),
        ("config.json", {"hidden_size": 0}),
        ("config.json", {"patch_size": "x"}),
        ("config.json", {"architectures": 3}),
        ("config.json", {"id2label": {"one": "a"}}),
        ("preprocessor_config.json", {"resample": [3]}),
        ("preprocessor_config.json", {"image_mean": 0.5}),
    ],
    ids=str,
)
def test_a_damaged_configuration_is_one_line(tmp_path: Path, file: str, damage: dict[str, Any]) -> None:
    saved(tmp_path, "ViTForImageClassification")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert load(tmp_path)  # control
    held = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(held | damage))
    with pytest.raises(IsopatchError, match="configuration beside it is damaged") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)

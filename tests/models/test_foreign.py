"""timm's and the authors' files, and what is wrong with files."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.official import sequential_to_timm
from isopatch.models.formats.timm import from_isopatch
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

DEIT: dict[str, Any] = {"depth": 1, "image_size": 32}
CONV: dict[str, Any] = {"dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 4, "image_size": 32}


def model_of(name: str, **arguments: Any) -> Isotropic:
    model = build(make_spec(name, {**arguments, "num_classes": 5})).eval()
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return model


def same(first: Isotropic, second: Isotropic) -> bool:
    x = torch.randn(2, 3, 32, 32)
    return torch.equal(first(x), second(x))


def timm_state(model: Isotropic) -> dict[str, torch.Tensor]:
    return from_isopatch(model.state_dict(), model.spec.architecture)


def write_timm_folder(folder: Path, model: Isotropic, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(timm_state(model), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_deits_own_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("deit_tiny", **DEIT)
    path = tmp_path / "deit_tiny_patch16_224-a1311bcf.pth"
    script = argparse.Namespace(lr=5e-4, data="/somewhere")
    torch.save({"model": timm_state(model), "args": script, "epoch": 299}, path)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        loaded = load(path, name="deit_tiny", arguments=DEIT)
    assert same(loaded, model)
    assert loaded.spec.arguments["num_classes"] == 5  # the file's own
    assert "ignored args, epoch beside the weights under 'model'" in caplog.text


def test_deit3s_own_file_names_its_layer_scale_otherwise(tmp_path: Path) -> None:
    model = model_of("deit3_small", **DEIT, layer_scale=0.3)
    state = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for key, value in timm_state(model).items()
    }
    torch.save({"model": state}, tmp_path / "deit_3_small_224_1k.pth")
    assert same(load(tmp_path / "deit_3_small_224_1k.pth", name="deit3_small", arguments=DEIT), model)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_and_stray_counts(tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("convmixer", **CONV)
    state = {prefix + key: value for key, value in timm_state(model).items()}
    state[prefix + "total_ops"] = torch.zeros(1)
    state[prefix + "blocks.0.total_params"] = torch.zeros(1)
    torch.save({"state_dict": state, "epoch": 3, "arch": "convmixer"}, tmp_path / "model_best.pth.tar")
    with caplog.at_level(logging.INFO, logger="isopatch"):
        loaded = load(tmp_path / "model_best.pth.tar", name="convmixer", arguments=CONV)
    assert same(loaded, model)
    assert "ignored 2 counts beside the weights" in caplog.text


def test_the_authors_sequential_convmixer(tmp_path: Path) -> None:
    """Names as `convmixer.py` gives them: 0 conv, 2 norm, 3.. blocks, then pool, flatten, linear."""
    model = model_of("convmixer", **CONV)
    depth = CONV["depth"]
    state = {}
    for key, value in timm_state(model).items():
        first, _, rest = key.partition(".")
        if first == "stem":
            state[rest] = value
        elif first == "head":
            state[f"{3 + depth + 2}.{rest}"] = value
        else:
            index, _, leaf = rest.partition(".")
            state[f"{3 + int(index)}.{leaf}"] = value
    assert "3.0.fn.0.weight" in state
    assert sequential_to_timm(state).keys() == timm_state(model).keys()
    torch.save({"module." + key: value for key, value in state.items()}, tmp_path / "model.pt")
    assert same(load(tmp_path / "model.pt", name="convmixer", arguments=CONV), model)


def test_a_bare_state_dict_and_our_own_names(tmp_path: Path) -> None:
    model = model_of("deit_tiny", **DEIT)
    torch.save(timm_state(model), tmp_path / "theirs.bin")
    torch.save(model.state_dict(), tmp_path / "ours.pt")
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    for name in ("theirs.bin", "ours.pt", "ours.safetensors"):
        assert same(load(tmp_path / name, name="deit_tiny", arguments=DEIT), model)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    model = model_of("deit_tiny", **DEIT).half()
    save_file(timm_state(model), tmp_path / "half.safetensors")
    loaded = load(tmp_path / "half.safetensors", name="deit_tiny", arguments=DEIT)
    assert loaded.norm.weight.dtype == torch.float32
    assert same(loaded, model.float())


def test_timms_config_names_the_model_and_its_input(tmp_path: Path) -> None:
    model = model_of("vit_tiny_patch16_224", image_size=32, depth=12)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "pretrained_cfg": {
            "tag": "augreg",
            "input_size": [3, 32, 32],
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "crop_pct": 0.7,
            "interpolation": "bilinear",
            "crop_mode": "squash",
        },
    }
    folder = write_timm_folder(tmp_path / "hub", model, config)
    for source in (folder, folder / "model.safetensors"):
        loaded = load(source)
        assert same(loaded, model)
        contract = loaded.spec.input
        assert (contract.height, contract.width) == (32, 32)
        assert contract.mean == (0.1, 0.2, 0.3)
        assert contract.std == (0.4, 0.5, 0.6)
        assert (contract.crop_fraction, contract.interpolation, contract.resize) == (
            0.7,
            "bilinear",
            "squash",
        )


def test_fine_tuning_a_timm_file_to_other_classes_and_size(tmp_path: Path) -> None:
    model = model_of("vit_tiny_patch16_224", image_size=32, depth=12)
    folder = write_timm_folder(tmp_path / "hub", model, {"architecture": "vit_tiny_patch16_224"})
    loaded = load(
        folder, name="vit_tiny", image_size=(48, 64), class_names=("a", "b"), arguments={"drop_path": 0.1}
    )
    assert loaded(torch.randn(1, 3, 48, 64)).shape == (1, 2)
    assert loaded.spec.classes == ("a", "b")
    assert torch.equal(loaded.position.table[:, 0], model.position.table[:, 0])
    assert torch.equal(loaded.blocks[3].token.mixer.qkv.weight, model.blocks[3].token.mixer.qkv.weight)


def test_outputs_without_names_are_kept_and_said_to_be_taken_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of("deit_tiny", **DEIT)
    path = tmp_path / "five.safetensors"
    save_file(timm_state(model), path)

    def warnings_of(**options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="isopatch"):
            loaded = load(path, "deit_tiny", arguments=DEIT, **options)
        assert loaded.spec.classes == options.get("class_names")
        kept = torch.equal(loaded.heads["cls"].linear.weight, model.heads["cls"].linear.weight)
        assert kept == (loaded.spec.arguments["num_classes"] == 5)
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    (warning,) = warnings_of(class_names=("ant", "bee", "cat", "d\nog", "eel"))
    assert warning == (
        f"{path}: does not name its classes; its 5 outputs are taken in the order given: ant, bee, ..., eel"
    )
    assert warnings_of() == []
    assert warnings_of(num_classes=5) == []  # nobody names them: nothing is taken for anything
    assert warnings_of(class_names=("ant", "bee")) == []  # a new classifier, which is logged


def test_a_name_and_a_number_of_classes_may_be_given_by_position(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(timm_state(model_of("vit_tiny")), path)
    loaded = load(path, "vit_tiny", 3)
    assert (loaded.spec.name, loaded.spec.arguments["num_classes"]) == ("vit_tiny_patch16_224", 3)


@pytest.mark.parametrize("name", ["deit_tiny", "vit_small", "vit", "convmixer"])
def test_a_name_that_contradicts_the_config_is_refused(tmp_path: Path, name: str) -> None:
    model = model_of("vit_tiny", image_size=32)
    folder = write_timm_folder(tmp_path / "hub", model, {"architecture": "vit_tiny_patch16_224"})
    for source in (folder, folder / "model.safetensors"):
        with pytest.raises(
            UsageError, match=rf"says vit_tiny_patch16_224, not {name}\S*: leave the name out$"
        ):
            load(source, name=name, image_size=32)


def test_a_name_that_confirms_the_config_or_stands_for_an_unknown_one_is_taken(tmp_path: Path) -> None:
    model = model_of("vit_tiny", image_size=32)
    for told in ("vit_tiny_patch16_224", "vit_tiny", "my_own_vit", None, 3):
        folder = write_timm_folder(tmp_path / str(told), model, {"architecture": told})
        assert same(load(folder, name="vit_tiny", image_size=32), model)


def test_the_config_of_a_plain_deit_does_not_forbid_its_distilled_twin(tmp_path: Path) -> None:
    model = model_of("deit_tiny", image_size=32)
    folder = write_timm_folder(tmp_path / "hub", model, {"architecture": "deit_tiny_patch16_224"})
    loaded = load(folder, name="deit_tiny_distilled", image_size=32)
    assert list(loaded.heads) == ["cls", "dist"]
    with pytest.raises(UsageError, match="leave the name out"):
        load(folder, name="deit_small_distilled", image_size=32)


def test_pretraining_head_is_kept_or_dropped_by_choice(tmp_path: Path) -> None:
    shape = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "image_size": 32}
    model = model_of("vit", **shape, pre_logits=True)
    save_file(timm_state(model), tmp_path / "in21k.safetensors")
    path = tmp_path / "in21k.safetensors"
    assert same(load(path, name="vit", arguments={**shape, "pre_logits": True}), model)
    assert load(path, name="vit", arguments=shape, num_classes=3).heads["cls"].pre_logits is None
    with pytest.raises(IsopatchError, match=r"2 unexpected \(heads\.cls\.pre_logits\.bias"):
        load(path, name="vit", arguments=shape)


def test_a_file_without_a_classifier(tmp_path: Path) -> None:
    state = {k: v for k, v in timm_state(model_of("deit_tiny", **DEIT)).items() if not k.startswith("head.")}
    save_file(state, tmp_path / "backbone.safetensors")
    with pytest.raises(UsageError, match="has no classifier; give num_classes"):
        load(tmp_path / "backbone.safetensors", name="deit_tiny", arguments=DEIT)
    loaded = load(tmp_path / "backbone.safetensors", name="deit_tiny", arguments=DEIT, num_classes=4)
    assert loaded.spec.arguments["num_classes"] == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "nothing beside it says which model it is; give its name"),
        (
            {"architecture": "resmet50"},
            "its config.json says 'resmet50', which neither isopatch nor timm has",
        ),
        ({"architecture": "vit_tiny_patch16_2240"}, "did you mean 'vit_tiny_patch16_224'"),
        ({"model_type": "dinov2"}, "transformers' dinov2 is not read"),
        (
            {"architecture": "vit_tiny_patch16_224", "model_args": {"reg_tokens": 4}},
            "builds the model with reg_tokens, which isopatch cannot translate",
        ),
    ],
)
def test_a_file_nobody_names_is_refused(tmp_path: Path, config: dict[str, Any] | None, message: str) -> None:
    folder = write_timm_folder(tmp_path / "x", model_of("vit_tiny_patch16_224", image_size=32), config or {})
    if config is None:
        (folder / "config.json").unlink()
        source = folder / "model.safetensors"
    else:
        source = folder
    with pytest.raises(UsageError, match=message):
        load(source)


def test_the_wrong_name_is_told(tmp_path: Path) -> None:
    save_file(timm_state(model_of("deit_tiny", **DEIT)), tmp_path / "deit.safetensors")
    with pytest.raises(
        IsopatchError,
        match=r"does not fit deit_small_patch16_224: .* match; width 192 in the file, 384 in deit_small_"
        r"patch16_224; depth 1 in the file, 12 in .*of another shape.*missing",
    ):
        load(tmp_path / "deit.safetensors", name="deit_small", image_size=32)
    with pytest.raises(
        IsopatchError, match=r"does not fit convmixer: of 37 tensors 2 match; .*; 35 missing .*18 unexpected"
    ):
        load(tmp_path / "deit.safetensors", name="convmixer", arguments=CONV, num_classes=3)


def test_no_tensor_in_common_is_an_error_whatever_is_asked(tmp_path: Path) -> None:
    save_file(
        {"conv1.weight": torch.zeros(3), "linear.bias": torch.zeros(10)}, tmp_path / "resnet.safetensors"
    )
    with pytest.raises(IsopatchError, match="none of its"):
        load(tmp_path / "resnet.safetensors", name="convmixer_cifar", num_classes=10)


def test_a_real_foreign_network_is_refused() -> None:
    data = os.environ.get("ISOPATCH_DATA")
    path = Path(data or "/nowhere").parent / "weights" / "cifar-resnet" / "resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip("weights/cifar-resnet is not beside ISOPATCH_DATA")
    with pytest.raises(IsopatchError, match=r"resnet20.*none of its"):
        load(path, name="convmixer_cifar", num_classes=10)


class Creates:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".ckpt", ".th"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, suffix: str, legacy: bool) -> None:
    victim = tmp_path / "created"
    path = tmp_path / f"evil{suffix}"
    content = {"model": timm_state(model_of("deit_tiny", **DEIT)), "args": Creates(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(IsopatchError, match="refused, because it holds the Python object") as error:
        load(path, name="deit_tiny", arguments=DEIT)
    assert "\n" not in str(error.value)
    assert not victim.exists()
    path.write_bytes(pickle.dumps(Creates(victim)))
    with pytest.raises(IsopatchError):
        load(path, name="deit_tiny", arguments=DEIT)
    assert not victim.exists()
    pickle.loads(path.read_bytes()).close()  # negative control: run, it does create the file
    assert victim.exists()


def test_a_hostile_namespace_is_ignored(tmp_path: Path) -> None:
    victim = tmp_path / "created"
    namespace = argparse.Namespace(hook=Creates(victim))
    torch.save({"model": timm_state(model_of("deit_tiny", **DEIT)), "args": namespace}, tmp_path / "evil.pth")
    with pytest.raises(IsopatchError, match="refused"):
        load(tmp_path / "evil.pth", name="deit_tiny", arguments=DEIT)
    assert not victim.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", b"PK\x03\x04 broken zip", b"\x80\x02}q\x00."]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(IsopatchError, match=f"weights{suffix}") as error:
        load(path, name="deit_tiny")
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    model = model_of("deit_tiny", **DEIT)
    torch.save({"model": timm_state(model)}, tmp_path / "a.pth")
    save_file(timm_state(model), tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(IsopatchError, match=rf"{name}: damaged"):
            load(path, name="deit_tiny", arguments=DEIT)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"weights\.onnx: not a weights file isopatch reads"):
        load(tmp_path / "weights.onnx", name="vit_base")


def test_content_without_tensors(tmp_path: Path) -> None:
    for index, content in enumerate(([1, 2], {}, {"model": {}}, {"a": 3})):
        path = tmp_path / f"{index}.pth"
        torch.save(content, path)
        with pytest.raises(IsopatchError, match=rf"{index}\.pth: (no weights by name|'a' is no tensor)"):
            load(path, name="deit_tiny")


def test_two_tensors_for_one_name(tmp_path: Path) -> None:
    state = timm_state(model_of("deit_tiny", **DEIT))
    state["fc_norm.weight"] = state["norm.weight"].clone()
    save_file(state, tmp_path / "two.safetensors")
    with pytest.raises(IsopatchError, match=r"two tensors of the file both mean norm\.weight"):
        load(tmp_path / "two.safetensors", name="deit_tiny", arguments=DEIT)


def test_native_weights_under_another_name_keep_their_description(tmp_path: Path) -> None:
    model = model_of("deit_tiny", **DEIT)
    save_model(tmp_path, model)
    (tmp_path / "model.safetensors").rename(tmp_path / "ema.safetensors")
    assert same(load(tmp_path / "ema.safetensors"), model)

"""What isopatch writes, it reads: folders, runs, files; damage is named."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from isopatch.errors import IsopatchError, UsageError
from isopatch.files import sha256_of
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

VIT: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": 16}
CONV: dict[str, Any] = {"dim": 16, "depth": 2, "kernel_size": 4, "patch_size": 4, "image_size": 16}
CLASSES = ("cat", "dog", "owl")


def vit(**more: Any) -> Isotropic:
    return build(make_spec("vit", {**VIT, **more}, classes=CLASSES)).eval()


def same(first: Isotropic, second: Isotropic, size: tuple[int, int] = (16, 16)) -> bool:
    x = torch.randn(2, 3, *size)
    return torch.equal(first(x), second(x))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit", VIT),
        ("vit", {**VIT, "position": "sincos-2d", "pre_logits": True}),
        ("vit", {**VIT, "position": "relative", "image_size": (16, 24)}),
        ("convmixer", CONV),
        ("deit_tiny_distilled", {"depth": 1, "image_size": 32}),
        ("deit3_small", {"depth": 1, "image_size": 32, "drop_path": 0.1}),
        ("cifar_resnet20", {}),
        ("vit_tiny_r_s16_p8_224", {"depth": 1, "image_size": (64, 256)}),  # 16 places, no square
    ],
)
def test_round_trip(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    model = build(
        make_spec(name, arguments, classes=CLASSES, input_overrides={"mean": (0.1, 0.2, 0.3)})
    ).eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    digest = save_model(tmp_path / "best", model, {"step": 7})
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["weights_sha256"] == digest
    assert config["step"] == 7
    loaded = load(tmp_path / "best")
    assert loaded.spec == model.spec
    assert not loaded.training
    own = model.state_dict()
    assert own.keys() == loaded.state_dict().keys()
    assert all(torch.equal(own[key], value) for key, value in loaded.state_dict().items())


def test_saving_reserves_its_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="extra may not hold model"):
        save_model(tmp_path, vit(), {"model": 1})


def test_a_run_folder_gives_best_else_the_newest_checkpoint(tmp_path: Path) -> None:
    old, new, best = vit(), vit(), vit()
    save_model(tmp_path / "checkpoints" / "step-0000009", old)
    save_model(tmp_path / "checkpoints" / "step-0000010", new)
    assert same(load(tmp_path), new)
    assert same(load(tmp_path / "checkpoints"), new)
    assert same(load(tmp_path / "checkpoints" / "step-0000009"), old)
    save_model(tmp_path / "best", best)
    assert same(load(tmp_path), best)
    assert same(load(tmp_path / "best" / "model.safetensors"), best)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = vit()
    save_model(tmp_path / "checkpoints" / "step-0000009", old)
    save_model(tmp_path / "checkpoints" / "step-0000010", vit())
    weights = tmp_path / "checkpoints" / "step-0000010" / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), -5))
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        assert same(load(tmp_path), old)
    assert str(weights) in caplog.text
    (tmp_path / "checkpoints" / "step-0000009" / "config.json").write_text("{")
    with pytest.raises(IsopatchError, match="every checkpoint is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("position", [0, 20, -1])
def test_every_flipped_bit_is_noticed(tmp_path: Path, position: int) -> None:
    save_model(tmp_path, vit())
    load(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), position))
    for source in (tmp_path, weights):
        with pytest.raises(
            IsopatchError, match=r"model\.safetensors: damaged or changed, its SHA-256 differs"
        ):
            load(source)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda config: "not json", r"config\.json: damaged"),
        (lambda config: "[]", r"config\.json: damaged"),
        (lambda config: json.dumps({**config, "model": 3}), r"config\.json: damaged or changed"),
        (lambda config: json.dumps({**config, "weights_sha256": None}), "carries no weights_sha256"),
        (lambda config: json.dumps({**config, "format": "isopatch-model-9"}), "damaged, or too new"),
    ],
)
def test_a_damaged_config_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    save_model(tmp_path, vit())
    path = tmp_path / "config.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(IsopatchError, match=message):
        load(tmp_path)


def test_random_bit_flips_are_noticed_in_both_files(tmp_path: Path) -> None:
    save_model(tmp_path, vit())
    generator = random.Random(0)
    for name in ("config.json", "model.safetensors"):
        path = tmp_path / name
        whole = path.read_bytes()
        for _ in range(100):
            damaged = bytearray(whole)
            damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(IsopatchError, match=rf"{tmp_path}|config\.json"):
                load(tmp_path)
        path.write_bytes(whole)
    load(tmp_path)


def test_an_edited_description_is_noticed(tmp_path: Path) -> None:
    save_model(tmp_path, vit())
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"cat"', '"rat"'))
    with pytest.raises(
        IsopatchError, match=r"config\.json: damaged or changed.*the one in model\.safetensors"
    ):
        load(tmp_path)


def test_a_checkpoints_manifest_covers_every_file(tmp_path: Path) -> None:
    step = tmp_path / "step-0000001"
    save_model(step, vit())
    shutil.copy(step / "model.safetensors", step / "ema.safetensors")
    files = {path.name: {"sha256": sha256_of(path)} for path in step.iterdir()}
    (step / "manifest.json").write_text(json.dumps({"files": files}))
    load(step)
    load(step / "ema.safetensors")
    for name in ("ema.safetensors", "config.json"):
        whole = (step / name).read_bytes()
        (step / name).write_bytes(whole + b" ")
        with pytest.raises(IsopatchError, match=rf"{name}: damaged or changed.*manifest\.json"):
            load(step / "ema.safetensors")
        (step / name).write_bytes(whole)
    (step / "manifest.json").write_text("{}")
    with pytest.raises(IsopatchError, match=r"manifest\.json: damaged"):
        load(step)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="neither a run nor a checkpoint"):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UsageError, match="this run has no checkpoint yet"):
        load(tmp_path)
    save_model(tmp_path / "best", vit())
    (tmp_path / "best" / "model.safetensors").unlink()
    with pytest.raises(IsopatchError, match=r"model\.safetensors: missing"):
        load(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        model = vit()
        model.blocks[1].channel.mixer.fc1.weight.data[3, 2] = value
        save_model(tmp_path, model)
        with pytest.raises(
            IsopatchError, match=r"blocks\.1\.channel\.mixer\.fc1\.weight holds values that are not"
        ):
            load(tmp_path)


def test_another_number_of_classes_gets_a_new_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = vit()
    save_model(tmp_path, model)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        loaded = load(tmp_path, num_classes=7)
    assert "new classifier (the file's has 3 classes, 7 wanted)" in caplog.text
    assert loaded(torch.randn(1, 3, 16, 16)).shape == (1, 7)
    assert loaded.spec.arguments["num_classes"] == 7
    assert loaded.spec.classes is None
    kept = {key for key in model.state_dict() if not key.startswith("heads.")}
    assert all(torch.equal(model.state_dict()[key], loaded.state_dict()[key]) for key in kept)


def test_the_head_is_kept_where_the_classes_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = vit()
    save_model(tmp_path, model)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        for loaded in (load(tmp_path, num_classes=3), load(tmp_path, class_names=CLASSES)):
            assert same(loaded, model)
            assert loaded.spec.classes == CLASSES
    assert "new classifier" not in caplog.text


def test_other_class_names_get_a_new_head(tmp_path: Path) -> None:
    model = vit()
    save_model(tmp_path, model)
    loaded = load(tmp_path, class_names=("dog", "cat", "owl"))
    assert loaded.spec.classes == ("dog", "cat", "owl")
    assert not torch.equal(loaded.heads["cls"].linear.weight, model.heads["cls"].linear.weight)
    with pytest.raises(UsageError, match="num_classes 4 contradicts the 2 class_names"):
        load(tmp_path, num_classes=4, class_names=("a", "b"))


def test_a_name_may_only_confirm(tmp_path: Path) -> None:
    save_model(tmp_path, vit())
    load(tmp_path, name="vit")
    with pytest.raises(UsageError, match="holds vit, not convmixer"):
        load(tmp_path, name="convmixer")


def test_arguments_that_leave_the_weights_alone(tmp_path: Path) -> None:
    model = vit()
    save_model(tmp_path, model)
    loaded = load(tmp_path, arguments={"drop_path": 0.2})
    assert loaded.spec.arguments["drop_path"] == 0.2
    assert loaded.blocks[1].token.drop_path == 0.2
    assert same(loaded, model)
    with pytest.raises(UsageError, match=r"model\.drop_pat: unknown \(did you mean 'drop_path'"):
        load(tmp_path, arguments={"drop_pat": 0.2})


def test_arguments_that_change_the_weights_are_told_readably(tmp_path: Path) -> None:
    save_model(tmp_path, vit())
    with pytest.raises(IsopatchError) as error:
        load(tmp_path, arguments={"depth": 3, "qkv_bias": False, "mlp_ratio": 2.0})
    text = str(error.value)
    assert "does not fit vit" in text
    assert "6 of another shape (blocks.0.channel.mixer.fc1.weight is 64x16, not 32x16" in text
    assert "11 missing (blocks.2.token.norm.weight" in text
    assert "2 unexpected (blocks.0.token.mixer.qkv.bias, blocks.1.token.mixer.qkv.bias)" in text
    assert "\n" not in text


def flipped(content: bytes, position: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 1
    return bytes(damaged)


def test_a_config_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(IsopatchError, match=r"config\.json: damaged or unreadable"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["bin", "pth", "pt"])
def test_other_peoples_file_beside_our_config_is_theirs(tmp_path: Path, suffix: str) -> None:
    shape = {"dim": 8, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 8}
    save_model(tmp_path, build(make_spec("vit", {**shape, "num_classes": 3})))
    other = build(make_spec("vit", {**shape, "num_classes": 5}))
    torch.save(other.state_dict(), tmp_path / f"theirs.{suffix}")
    loaded = load(tmp_path / f"theirs.{suffix}", "vit", arguments=shape)
    assert torch.equal(loaded.state_dict()["stem.proj.weight"], other.state_dict()["stem.proj.weight"])

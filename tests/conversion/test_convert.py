"""What is written is the same model, what a format cannot hold is refused, and failures leave nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch import IsopatchError, UsageError, convert, create_model, load
from isopatch.cli import main
from isopatch.conversion import targets
from isopatch.image.prepare import prepare, resized_size
from isopatch.models.save import save_model

Source = Callable[..., Path]
PLACES = {
    "isopatch": "out",
    "timm": "out",
    "deit": "out.pth",
    "npz": "out.npz",
    "transformers": "out",
}


def same(first: Any, second: Any) -> bool:
    own, other = first.state_dict(), second.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)


@pytest.mark.parametrize(
    ("to", "files"),
    [
        ("isopatch", ["config.json", "model.safetensors"]),
        ("timm", ["config.json", "model.safetensors"]),
        ("deit", ["out.pth"]),
        ("npz", ["out.npz"]),
        ("transformers", ["config.json", "model.safetensors", "preprocessor_config.json"]),
    ],
)
def test_there_and_back(tmp_path: Path, source: Source, make: Any, to: str, files: list[str]) -> None:
    model, target = make("vit"), tmp_path / PLACES[to]
    report = convert(source("vit"), target, to=to)
    assert (report["files"], report["passed"], report["check"]) == (files, True, None)
    assert report["round_trip"]["max_abs_error"] == 0.0
    assert report["read"]["matched"] == report["read"]["tensors_in_model"] == len(model.state_dict())
    if target.is_dir():
        back = load(target)
        assert back.spec.classes == model.spec.classes
        assert (back.spec.input.mean, back.spec.input.std) == (model.spec.input.mean, model.spec.input.std)
        assert back.spec.input.interpolation == "bilinear"
        assert resized_size(90, 70, back.spec.input) == resized_size(90, 70, model.spec.input)
        assert report["not_kept"] == []
    else:
        sizes = {key: value for key, value in model.spec.arguments.items() if key != "num_classes"}
        back = load(target, "vit", arguments=sizes)
        assert f"input settings and 3 class names: a {target.suffix} file" in report["not_kept"][0]
    assert same(back, model)
    again = convert(target, tmp_path / "again", to="isopatch", name=None if target.is_dir() else "vit",
                    arguments=None if target.is_dir() else sizes)  # fmt: skip
    assert again["passed"] and same(load(tmp_path / "again"), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["source", "again", target.name])


@pytest.mark.parametrize("name", ["convmixer", "mlp_mixer", "resmlp", "gmlp"])
def test_sizes_that_timm_has_no_name_for_become_files(
    tmp_path: Path, source: Source, make: Any, name: str
) -> None:
    folder = source(name)
    with pytest.raises(UsageError, match=r"write the weights alone, to a file ending in \.safetensors"):
        convert(folder, tmp_path / "out", to="timm")
    for suffix in ("safetensors", "pth", "bin"):
        convert(folder, tmp_path / f"out.{suffix}", to="timm")
        sizes = {k: v for k, v in make(name).spec.arguments.items() if k != "num_classes"}
        assert same(load(tmp_path / f"out.{suffix}", name, arguments=sizes), make(name))


def test_the_joined_and_split_tensors_are_counted(tmp_path: Path, source: Source) -> None:
    report = convert(source("vit"), tmp_path / "hf", to="transformers")
    assert (
        report["written"]["tensors"] == report["read"]["tensors_in_file"] + 2 * 2 * 2
    )  # weight, bias; 2 blocks
    assert len(report["written"]["reshaped"]) == 3 * 2 * 2
    back = convert(tmp_path / "hf", tmp_path / "back", to="isopatch")["read"]
    assert back["reshaped"] == [
        f"blocks.{i}.token.mixer.qkv.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")
    ]
    assert (back["left_over"], back["missing"]) == ([], [])


REFUSED = [
    ("convmixer", {}, "transformers", "transformers' format has no convmixer"),
    ("convmixer", {}, "npz", "Google's format has no convmixer"),
    ("convmixer", {}, "deit", "DeiT's code has no convmixer"),
    ("metaformer", {}, "timm", "timm has no metaformer"),
    ("deit3_small", {}, "transformers", "transformers' format has no deit3"),
    ("gmlp", {}, "deit", "DeiT's code has no gmlp"),
    ("deit_tiny_distilled", {}, "npz", "Google's format has distilled False only, this model has True"),
    ("vit", {"layer_scale": 0.1}, "npz", "Google's format has layer_scale None only, this model has 0.1"),
    ("vit", {"layer_scale": 0.1}, "transformers", "has layer_scale none only, this model has 0.1"),
    ("vit", {"pre_logits": True}, "timm", "pre_logits has no place there"),
    ("vit", {"patch_norm": True}, "timm", "patch_norm"),
    ("vit", {"position": "sincos-2d"}, "timm", "no position 'sincos-2d'"),
    ("vit", {"position": "relative"}, "timm", "no position 'relative'"),
    ("vit", {"pool": "mean-norm"}, "transformers", "has pool class only, this model has mean-norm"),
    ("vit", {"pool": "norm-mean"}, "npz", "has pool class only, this model has norm-mean"),
    ("vit", {"qkv_bias": False}, "npz", "has qkv_bias True only"),
    ("vit", {"activation": "relu"}, "deit", "DeiT's code runs gelu, this model relu"),
    ("vit", {"activation": "relu"}, "npz", "Google's code runs gelu, this model relu"),
]


@pytest.mark.parametrize(("name", "more", "to", "message"), REFUSED)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, source: Source, name: str, more: dict[str, Any], to: str, message: str
) -> None:
    folder = source(name, **more)
    with pytest.raises(UsageError, match=message) as error:
        convert(folder, tmp_path / PLACES[to], to=to)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_the_reading_code_runs_otherwise_is_said(tmp_path: Path, source: Source) -> None:
    folder = source("vit", norm_eps=1e-12, activation="gelu_tanh")
    assert convert(folder, tmp_path / "a.pth", to="deit")["other_settings"] == [
        "norm_eps is 1e-12 here, 1e-06 in the code that reads deit",
        "activation is gelu_tanh here, gelu in the code that reads deit",
    ]
    assert len(convert(folder, tmp_path / "a.npz", to="npz")["other_settings"]) == 1
    assert convert(folder, tmp_path / "a", to="transformers")["other_settings"] == []


def test_a_rectangle_keeps_its_grid(tmp_path: Path, source: Source, make: Any) -> None:
    """16 places of 2 x 8 are 4 x 4 to a reader who is not told: nothing may be resized on the way."""
    shape = {"image_size": (16, 64)}
    folder = source("vit", **shape)
    for to, place in (("timm", "t"), ("timm", "t.safetensors"), ("transformers", "hf"), ("npz", "w.npz")):
        report = convert(folder, tmp_path / place, to=to)
        assert report["round_trip"]["max_abs_error"] == 0.0
        if to == "transformers":
            assert "preprocessor_config.json" not in report["files"]  # no processor there covers a rectangle
            assert any("how pictures are prepared" in line for line in report["not_kept"])
        if not (tmp_path / place).is_file():
            assert same(load(tmp_path / place), make("vit", **shape))


# --- what other projects make of it ----------------------------------------------------------------------


def test_deits_file_holds_tensors_and_nothing_that_runs(tmp_path: Path, source: Source) -> None:
    convert(source("deit3_small"), tmp_path / "out.pth", to="deit")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(content) == ["model"]
    assert all(isinstance(tensor, torch.Tensor) for tensor in content["model"].values())
    assert {"blocks.0.gamma_1", "blocks.1.gamma_2", "patch_embed.proj.weight"} <= content["model"].keys()
    total = sum(tensor.numel() * 4 for tensor in content["model"].values())
    assert (tmp_path / "out.pth").stat().st_size < total + 40_000  # views would bring their whole storage


def test_googles_file_holds_float_arrays(tmp_path: Path, source: Source) -> None:
    convert(source("mlp_mixer"), tmp_path / "out.npz", to="npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["MixerBlock_0/token_mixing/Dense_0/kernel"].shape == (16, 8)  # (in, out)
        assert {file[name].dtype for name in file.files} == {np.dtype("float32")}


def test_timm_prepares_pictures_as_the_folder_says(tmp_path: Path, source: Source) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
        from timm.data import resolve_data_config
    convert(source("deit_tiny_distilled"), tmp_path / "out", to="timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    told = resolve_data_config({}, model=model)
    assert (told["input_size"], told["crop_pct"], told["interpolation"]) == ((3, 32, 32), 0.8, "bilinear")
    assert (list(told["mean"]), list(told["std"])) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert tuple(model.pretrained_cfg["label_names"]) == ("ant", "bee", "cat")
    other = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7)
    assert other(torch.zeros(1, 3, 32, 32)).shape == (1, 7)  # it knows which layers are the classifiers


@pytest.mark.parametrize(
    "contract",
    [
        {"crop_fraction": 0.8},
        {"crop_fraction": 1.0},
        {"crop_fraction": 0.8, "resize": "squash"},
        {"crop_fraction": 1.0, "resize": "squash"},
    ],
)
def test_transformers_prepares_pictures_as_the_folder_says(
    tmp_path: Path, source: Source, make: Any, contract: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    convert(source("vit", input=contract), tmp_path / "out", to="transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(colours).resize((70, 84), Image.Resampling.BICUBIC)
    theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
    ours = prepare(picture, make("vit", input=contract).spec.input)
    assert theirs.shape == ours.shape
    assert float((theirs - ours).abs().max()) < 0.05  # it resizes with torchvision, not with Pillow
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "ant", 1: "bee", 2: "cat"}


@pytest.mark.parametrize("crop", range(1, 300, 7))
def test_the_crop_survives_the_way_over_whole_pixels(crop: int) -> None:
    import math

    from isopatch.models.formats.transformers import _share

    for resized in range(crop, 2 * crop + 2):
        assert math.floor(crop / _share(crop, resized)) == resized


# --- nothing half done -----------------------------------------------------------------------------------


def test_a_file_damaged_on_the_way_is_not_kept(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, right = source("vit"), targets.state_for
    monkeypatch.setattr(
        targets, "state_for", lambda to, m: {**right(to, m), "norm.bias": right(to, m)["norm.bias"] + 1}
    )
    with pytest.raises(IsopatchError, match=r"out: not written, read back it is 1\.0e\+00 off"):
        convert(folder, tmp_path / "out", to="timm")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("to", PLACES)
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    from isopatch.models import save

    folder = source("vit")

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(28, "No space left on device", str(path))

    for module in (targets, save):
        monkeypatch.setattr(module, "write_new", full)
    with pytest.raises(OSError, match="No space"):
        convert(folder, tmp_path / PLACES[to], to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_there_is_replaced_only_when_asked_and_only_if_it_is_a_model(
    tmp_path: Path, source: Source, make: Any
) -> None:
    folder = source("vit")
    for to, place in (("timm", "out"), ("npz", "out.npz")):
        convert(folder, tmp_path / place, to=to)
        with pytest.raises(UsageError, match=f"{place}: exists; --overwrite replaces it"):
            convert(folder, tmp_path / place, to=to)
        convert(folder, tmp_path / place, to=to, overwrite=True)
    convert(folder, tmp_path / "out", to="transformers", overwrite=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "vit"
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    for target, message in (
        (tmp_path / "out", "holds thesis.txt, which is no part of a model"),
        (folder, "that is where the source is"),
        (tmp_path, "that is where the source is"),
        (folder / "config.json", "part of the source|other name"),
    ):
        with pytest.raises(UsageError, match=message):
            convert(folder, target, to="timm", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(UsageError, match="is a link"):
        convert(folder, tmp_path / "link", to="timm", overwrite=True)
    (tmp_path / "dir.npz").mkdir()
    with pytest.raises(UsageError, match="is a folder, and a file would replace it"):
        convert(folder, tmp_path / "dir.npz", to="npz", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"
    assert same(load(folder), make("vit"))


@pytest.mark.parametrize(
    ("to", "place", "message"),
    [
        ("onnx", "out", "choose one of isopatch, timm, deit, npz, transformers"),
        ("tim", "out", "did you mean 'timm'"),
        ("npz", "out", "is a file ending in .npz"),
        ("deit", "out.npz", "is a file ending in .pth"),
        ("timm", "out.onnx", "is a folder or a file ending in .safetensors"),
        ("isopatch", "out.PTH", "is a folder; give such a name"),
        ("transformers", "out.safetensors", "is a folder; give such a name"),
        ("timm", "out.npz", "is a folder or a file ending in .safetensors, .pth, .bin"),
    ],
)
def test_a_wrong_format_or_name_is_told(
    tmp_path: Path, source: Source, to: str, place: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        convert(source("vit"), tmp_path / place, to=to)
    assert not (tmp_path / place).exists()


def test_a_split_of_nothing_is_refused(tmp_path: Path, source: Source) -> None:
    with pytest.raises(UsageError, match="--split names a part of --data"):
        convert(source("vit"), tmp_path / "out", to="timm", split="val")


def test_an_average_of_the_weights_by_choice(tmp_path: Path, make: Any) -> None:
    save_model(tmp_path / "run", make("vit"))
    with pytest.raises(UsageError, match="no moving average"):
        convert(tmp_path / "run", tmp_path / "out", to="timm", ema=True)


def test_a_bare_file_of_any_size_is_evaluated_and_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 8}
    save_model(tmp_path / "model", create_model("vit", num_classes=10, **sizes))
    convert(tmp_path / "model", tmp_path / "w.pth", to="deit")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    named = ["--model", "vit", *(f"--model.{key}={value}" for key, value in sizes.items())]
    weights, picture = str(tmp_path / "w.pth"), str(tmp_path / "picture.png")
    assert main(["eval", weights, "--data", "digits", *named]) == 0
    sized = ["--sizes", "8", "--plot", str(tmp_path / "p.png")]
    assert main(["eval", weights, "--data", "digits", *sized, *named]) == 0
    assert main(["predict", weights, picture, *named]) == 0
    assert main(["eval", weights, "--data", "digits", "--model", "vit"]) == 2
    assert "model.dim: missing" in capsys.readouterr().err

"""`isopatch explain` from end to end: every family, every map, odd pictures, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import isopatch
from isopatch import explaining
from isopatch.cli import main
from isopatch.data.open import open_data
from isopatch.errors import IsopatchError, UsageError
from isopatch.eval_sizes import evaluate_sizes
from isopatch.evaluation import evaluate_checkpoint
from isopatch.explain.contract import Context
from isopatch.explain.of_pictures import EXPLANATIONS
from isopatch.explain.receptive_field import receptive_fields
from isopatch.explaining import short_names
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier

Make = Callable[..., Classifier]
MAPS = [explanation.name for explanation in EXPLANATIONS]
ATTENTION_ONLY = {"attention", "rollout", "gradient-rollout"}
CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def saved(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def save(family: str, **changed: Any) -> str:
        model = make(family, **changed)
        save_model(tmp_path / "model", model)
        return "model"

    return save


@pytest.fixture
def photo(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["explain", *arguments, "--json"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize("family", ["vit", "deit", "vit-mean", "pyramid", "convmixer", "mixer", "resnet"])
def test_every_map_of_every_family_on_digits(
    family: str, saved: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    digits = tuple(str(number) for number in range(10))
    torch.manual_seed(0)
    assert open_data("digits").classes == digits
    model = saved(family, class_names=digits, image_size=8, patch_size=None if family == "resnet" else 2)
    document = run(capsys, model, "--data", "digits", "--pictures", "1", "--what", ",".join(MAPS_OF[family]))
    folder = Path("explanations")
    assert json.loads((folder / "explanations.json").read_text()) == document
    assert [one["name"] for one in document["explanations"]] == MAPS_OF[family]
    for one in document["explanations"]:
        maps = [figure for figure in one["figures"] if "maps" in figure["data"]]
        assert len(maps) == 1
        for figure in one["figures"]:
            with Image.open(folder / figure["file"]) as drawn:
                assert drawn.format == "PNG" and drawn.size[0] > 100
        for figure in maps:
            assert figure["data"]["label"] in digits and 0 < figure["data"]["probability"] <= 1
            for readings in figure["data"]["maps"].values():
                assert np.isfinite(readings["values"]).all()
                assert bool(readings["fails"]) == (not _passes(readings))
            failed = any(readings["fails"] for readings in figure["data"]["maps"].values())
            assert (figure["warning"] is not None) == failed
    page = (folder / "explanations.html").read_text()
    assert page.count('<img class="made"') == sum(len(one["figures"]) for one in document["explanations"])
    assert "http://" not in page and "https://" not in page and "<script" not in page


MAPS_OF = {
    family: [name for name in MAPS if has_attention or name not in ATTENTION_ONLY]
    for family, has_attention in {
        "vit": True, "deit": True, "vit-mean": True, "convmixer": False, "mixer": False, "resnet": False,
    }.items()
}  # fmt: skip
MAPS_OF["pyramid"] = [name for name in MAPS if name not in ("rollout", "gradient-rollout")]


def _passes(readings: dict[str, Any]) -> bool:
    parts = [readings["deletion"], readings["insertion"]]
    return all(part is not None and part["passed"] for part in parts) and (
        readings["randomised"]["passed"] is not False
    )


def test_without_what_everything_that_can_be_is_made_and_the_rest_says_why(
    saved: Callable[..., str], photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved("convmixer")
    document = run(capsys, model, photo, "--out", "here")
    made = {one["name"]: one for one in document["explanations"]}
    assert made["grad-cam"]["figures"] and made["grad-cam"]["skipped"] is None
    assert made["rollout"]["skipped"] == "has no attention" and not made["rollout"]["figures"]
    assert any(name.suffix == ".png" for name in Path("here").iterdir())
    Path("here/mine.png").write_bytes(b"of the user")
    document = run(capsys, model, "--out", "here")
    assert [name.name for name in Path("here").glob("*.png")] == [
        "mine.png"
    ]  # ours of the call before are gone
    made = {one["name"]: one for one in document["explanations"]}
    assert made["occlusion"]["skipped"] == "needs pictures: give files, or --data DATA --pictures N"
    assert "needs pictures" in Path("here/explanations.html").read_text()
    assert main(["explain", model, photo, "--what", "grad-cam"]) == 0
    assert "page: explanations/explanations.html" in capsys.readouterr().out


def test_the_class_and_the_options_are_taken(
    saved: Callable[..., str], photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved("vit")
    base = (model, photo, "--what", "rollout,occlusion")
    one = run(capsys, *base, "--class", "cat")
    other = run(
        capsys, *base, "--class", "dog", "--rollout.fusion", "max", "--rollout.identity", "false",
        "--occlusion.size", "4", "--occlusion.stride", "2",
    )  # fmt: skip
    data = [document["explanations"][0]["figures"][0]["data"] for document in (one, other)]
    assert [row["target"] for row in data] == ["cat", "dog"]
    assert data[0]["maps"]["class token"]["values"] != data[1]["maps"]["class token"]["values"]
    assert len(other["explanations"][1]["figures"][0]["data"]["maps"]["target class"]["values"]) == 8
    again = run(capsys, *base, "--class", "cat")
    assert again == one


# (arguments after the model, what the line says)
REFUSED = [
    ("photo.png --what rolout", "'rolout' is no explanation (did you mean 'rollout'?)"),
    ("photo.png --what ,", "--what: give names of explanations"),
    ("--what occlusion", "occlusion of model: needs pictures: give files, or --data DATA --pictures N"),
    ("photo.png --what rollout", "rollout of model: has no attention"),
    ("photo.png --class cta", "--class cta: no class of the model (did you mean 'cat'?)"),
    ("absent.png", "absent.png: no such file or folder"),
    ("photo.png --pictures 3", "--split and --pictures choose from --data"),
    ("photo.png --rollout.fusion medium", "rollout.fusion: 'medium' is not one of mean, max, min"),
    ("photo.png --rollout.fusoin max", "rollout.fusoin: no option of an explanation (did you mean 'rollout"),
    ("photo.png --rollout.discard 1.5", "rollout.discard: 1.5: give a number from 0 up and below 1"),
    ("photo.png --rollout.identity maybe", "'maybe' is neither true nor false"),
    ("photo.png --occlusion.size 3.5", "occlusion.size: '3.5' is not a whole number"),
    ("photo.png --occlusion.size 99", "occlusion.size 99: the model's pictures are 16x16"),
    ("photo.png --integrated-gradients.steps 1", "steps: 1: give a number from 2 up"),
    ("photo.png --optimizer.lr 1", "--optimizer.lr: unknown option"),
    ("photo.png --compare a --compare b --compare c", "--compare: 3 models, at most 2"),
    ("photo.png --what grad-cam --compare a", "grad-cam shows one model alone, attention-distance and sim"),
    ("photo.png --device tpu", "device 'tpu' was asked for"),
    ("photo.png --out photo.png", "photo.png: cannot write there"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: str, message: str, saved: Callable[..., str], photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved("convmixer")
    assert main(["explain", model, *arguments.split()]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("isopatch: error: ")]
    assert captured.out == "" and len(errors) == 1 and message in errors[0], captured.err


def test_files_that_cannot_be_read_are_listed_and_left_out(
    saved: Callable[..., str], photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved("convmixer")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Path("empty.jpg").write_bytes(b"")
    document = run(capsys, model, "broken.png", photo, "empty.jpg", "--what", "grad-cam")
    assert document["pictures"] == [photo] and len(document["notes"]) == 2
    assert "broken.png" in Path("explanations/explanations.html").read_text()
    assert main(["explain", model, "broken.png", "empty.jpg"]) == 1
    assert "none of the 2 inputs could be read as a picture" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_one_line(
    make: Make, tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make("vit")
    with torch.no_grad():
        model.blocks[1].channel.mixer.fc1.weight[0, 0] = torch.nan
    save_model(tmp_path / "nan", model)
    assert main(["explain", str(tmp_path / "nan"), photo]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "blocks.1.channel.mixer.fc1.weight" in error[0] and "not finite" in error[0]


def test_an_output_that_is_not_finite_names_the_picture(make: Make, tmp_path: Path, photo: str) -> None:
    model = make("vit")
    with torch.no_grad():
        model.heads["cls"].linear.weight.fill_(3e38)
    save_model(tmp_path / "large", model)
    with pytest.raises(IsopatchError, match=r"its output for .*photo\.png is not finite"):
        isopatch.explain_checkpoint(tmp_path / "large", [photo])


def test_without_captum_one_line_says_how_to_get_it(
    saved: Callable[..., str],
    photo: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from isopatch.explain import integrated

    model = saved("convmixer")
    monkeypatch.setattr(integrated, "find_spec", lambda _name: None)
    document = run(capsys, model, photo)
    (skipped,) = [one["skipped"] for one in document["explanations"] if one["name"] == "integrated-gradients"]
    assert skipped == "needs captum: pip install 'isopatch[explain]'"
    assert main(["explain", model, photo, "--what", "integrated-gradients"]) == 2
    assert "needs captum: pip install 'isopatch[explain]'" in capsys.readouterr().err
    assert importlib.util.find_spec("captum") is not None


@pytest.mark.parametrize("family", ["deit", "convmixer"])
def test_odd_pictures_of_a_model_that_is_not_square(family: str, saved: Callable[..., str]) -> None:
    model = saved(family, image_size=(8, 16), patch_size=4)
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    odd = [
        Image.new("RGB", (20, 20), (7, 90, 200)),
        Image.new("RGB", (1, 1), "red"),
        Image.new("L", (300, 1), 9),
        Image.fromarray(noise),
    ]
    explained = isopatch.explain_checkpoint(model, odd)
    assert set(explained.figures) >= set(MAPS_OF[family])
    for name in MAPS_OF[family]:
        figures = explained.figures[name]
        maps = [figure for figure in figures if "maps" in figure.data]
        assert len(maps) == len(odd)
        for figure in maps[:2]:  # of one colour: nothing can be said, and it is said so
            assert figure.warning is not None
        for readings in maps[-1].data["maps"].values():
            values = np.array(readings["values"])
            assert values.shape[1] == 2 * values.shape[0]


def test_many_pictures_are_refused_and_a_batch_is_not(saved: Callable[..., str]) -> None:
    model = saved("convmixer", depth=1)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    explained = isopatch.explain_checkpoint(model, [picture] * 11, what=["grad-cam"])
    names = [figure.name for figure in explained.figures["grad-cam"]]
    assert len(set(names)) == 11 and explained.folder is None
    with pytest.raises(UsageError, match=r"65 pictures: .* give at most 64"):
        isopatch.explain_checkpoint(model, [picture] * 65, what=["grad-cam"])


def test_data_with_other_classes_is_said(saved: Callable[..., str]) -> None:
    explained = isopatch.explain_checkpoint(
        saved("convmixer"), data="digits", num_pictures=1, what=["grad-cam"]
    )
    assert explained.figures["grad-cam"][0].data["label"] is None
    assert "its classes are not the model's" in explained.document["notes"][0]


def test_a_model_without_names_takes_those_of_as_many_classes_of_the_data(tmp_path: Path) -> None:
    """As `isopatch eval` does; with other names, or more classes, no picture has a true class."""
    torch.manual_seed(0)
    arguments = {"image_size": 8, "patch_size": 2, "dim": 8, "depth": 1, "kernel_size": 3}

    def explained(count: int, classes: tuple[str, ...] | None, **asked: Any) -> dict[str, Any]:
        model = build(make_spec("convmixer", {**arguments, "num_classes": count}, classes=classes))
        save_model(tmp_path / "model", model)
        return isopatch.explain_checkpoint(
            tmp_path / "model", data="digits", num_pictures=1, what=["grad-cam"], **asked
        ).figures["grad-cam"][0].data  # fmt: skip

    digits = open_data("digits").classes
    chosen = explained(10, None, class_name=digits[3])
    assert chosen["label"] in digits and chosen["target"] == digits[3]
    assert explained(11, None, class_name="3")["target"] == "3"
    assert explained(11, None)["label"] is None
    assert explained(10, tuple("abcdefghij"))["label"] is None


def test_a_model_of_another_library_is_explained_by_what_needs_no_blocks(tmp_path: Path, photo: str) -> None:
    torch.manual_seed(0)
    model = build(make_spec("torchvision:shufflenet_v2_x0_5", {"image_size": 32}, classes=CLASSES)).eval()
    save_model(tmp_path / "other", model)
    explained = isopatch.explain_checkpoint(
        tmp_path / "other", [photo], options={"integrated_gradients.steps": 4}
    )
    reasons = {one.explanation.name: one.skipped for one in explained.made}
    assert {"grad-cam", "occlusion", "integrated-gradients"} <= set(explained.figures)
    assert reasons["grad-cam"] is None
    for name in ("attention", "rollout", "positions", "token-mixing", "tokens"):
        assert "another library's" in (reasons[name] or ""), name  # not that it has no such thing


def test_grad_cam_is_refused_where_another_library_s_model_reads_a_class_token(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "other", build(make_spec("timm:test_vit", {}, classes=None)).eval())
    assert main(["explain", str(tmp_path / "other"), photo, "--what", "grad-cam"]) == 2
    assert "is another library's and reads its class token alone" in capsys.readouterr().err


def test_a_model_of_grey_pictures_is_one_line(make: Make, photo: str, tmp_path: Path) -> None:
    save_model(tmp_path / "grey", make("convmixer", in_channels=1))
    message = (
        r"grey takes pictures of 1 channel\(s\) \(in_channels 1\), but every picture is decoded to 3 \(RGB\)"
    )
    with pytest.raises(UsageError, match=message):
        isopatch.explain_checkpoint(tmp_path / "grey", [photo])
    with pytest.raises(UsageError, match=message):
        isopatch.Predictor(tmp_path / "grey")
    with pytest.raises(UsageError, match=message):
        evaluate_checkpoint(tmp_path / "grey", "digits")
    with pytest.raises(UsageError, match=message):
        evaluate_sizes(tmp_path / "grey", "digits", [(8, 8)])


def test_single_heads_are_said_to_be_unchecked(make: Make, tmp_path: Path, photo: str) -> None:
    save_model(tmp_path / "vit", make("vit"))
    mean, heads = isopatch.explain_checkpoint(tmp_path / "vit", [photo], what=["attention"]).figures[
        "attention"
    ]
    assert "Single heads are not checked" in heads.caption and "maps" not in heads.data
    assert "not checked" not in mean.caption and mean.data["maps"]["class token"]["deletion"]


def test_charts_call_models_by_the_last_part_of_their_path(tmp_path: Path) -> None:
    for folder in ("a/first/best", "b/first/best", "b/second"):
        (tmp_path / folder).mkdir(parents=True)
    first, second = str(tmp_path / "a/first/best"), str(tmp_path / "b/second")
    assert short_names([first, second, "timm:resnet18"]) == ["first", "second", "timm:resnet18"]
    same = [first, str(tmp_path / "b/first/best")]
    assert short_names(same) == same


def test_what_was_given_reaches_the_explanations(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models to compare with, the same pictures prepared for each of them, statistics drawn by seed."""
    for name, size in (("one", 16), ("two", 8), ("three", 24)):
        save_model(tmp_path / name, make("convmixer", image_size=size))
    seen: list[Context] = []
    monkeypatch.setattr(explaining, "make", lambda context, what: seen.append(context) or [])
    for seed in (0, 0, 1):
        isopatch.explain_checkpoint(
            tmp_path / "one",
            compare=[tmp_path / "two", tmp_path / "three"],
            data="digits",
            seed=seed,
            options={"rollout.discard": "0.5"},
        )
    first, again, other = seen
    assert (first.name, first.other_name, first.options["second_name"]) == ("one", "two", "three")
    assert first.sample is not None and first.sample.shape == (128, 3, 16, 16)
    assert first.options["other_sample"].shape == (128, 3, 8, 8)
    assert first.options["second_sample"].shape == (128, 3, 24, 24)
    # Digits are 8 x 8: what the second model sees, enlarged, is what the first one sees.
    enlarged = torch.nn.functional.interpolate(first.options["other_sample"], size=16, mode="bicubic")
    assert (enlarged - first.sample).abs().mean() < 0.2 < (enlarged.roll(1, 0) - first.sample).abs().mean()
    assert again.sample is not None and other.sample is not None
    assert torch.equal(first.sample, again.sample) and not torch.equal(first.sample, other.sample)
    assert first.options["rollout.discard"] == 0.5 and not first.model.training


def test_pictures_that_patches_do_not_fill_are_measured_by_their_patches(
    make: Make, tmp_path: Path, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches of 7 on 16 pixels: two of them, and a cell of a map is 7 pixels, not 8."""
    save_model(tmp_path / "one", make("convmixer", patch_size=7))
    save_model(tmp_path / "two", make("convmixer", image_size=24, patch_size=7))
    seen: list[Context] = []
    monkeypatch.setattr(explaining, "make", lambda context, what: seen.append(context) or [])
    isopatch.explain_checkpoint(tmp_path / "one", [photo], compare=[tmp_path / "two"], data="digits")
    (context,) = seen
    assert context.sample is not None and context.sample.shape[2:] == (14, 14)
    assert context.options["other_sample"].shape[2:] == (21, 21)
    assert context.pictures[0].tensor.shape[2:] == (14, 14)
    depth = receptive_fields(context.model, context.sample[:4])[0]
    lit = np.flatnonzero(depth.field.sum(axis=1))
    assert (lit[0], lit[-1]) == (7, 13) and depth.middle[0] == 10.5  # the middle of what the stem reads
    with pytest.raises(UsageError, match="give 0 or more"):
        isopatch.explain_checkpoint(tmp_path / "one", data="digits", num_pictures=-1)

"""Picture and patch sizes from the command line: rectangles all the way, weights taken to another size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from isopatch import Predictor
from isopatch.cli import main
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec

SIZE = (48, 32)
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8},
    "deit_tiny_distilled": {"depth": 1, "patch_size": 16},
    "convmixer": {"dim": 16, "depth": 1, "kernel_size": 3, "patch_size": 4},
    "mlp_mixer": {"dim": 16, "depth": 1, "patch_size": 8},
    "cifar_resnet20": {"depth": 8, "width": 4},
}
SIDES = [(60, 40), (90, 50), (64, 64), (45, 80)]  # width, height: of every aspect, none as the model's


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, told apart by where a disc lies: above or below."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        for label, place in (("above", 0.25), ("below", 0.75)):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = SIDES[number % len(SIDES)]
                picture = Image.new("RGB", (width, height), (40, 40, 10 * number))
                middle, radius = (width / 2, height * place), height / 6
                ImageDraw.Draw(picture).circle(middle, radius, fill=(250, 220, 200))
                picture.save(folder / f"{number}.png")
    return tmp_path / "pictures"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """Run a command with --json and return its document."""
    assert main([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", MODELS)
def test_from_training_to_the_report(
    name: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--model.{key}={value}" for key, value in MODELS[name].items()]
    train = ["train", "--data", "pictures", "--model", name, *given, "--model.image_size", "48x32"]
    train += ["--epochs", "2", "--batch_size", "8", "--threads", "1", "--out", "run"]
    assert run(capsys, *train, "--max-minutes", "1e-9", code=75)["state"] == "stopped"
    done = run(capsys, *train, "--resume", "auto")
    assert done["state"] == "finished" and done["summary"]["image_size"] == list(SIZE)

    if name == "vit":
        whole = run(capsys, *train[:-1], "whole")  # never stopped
        assert whole["summary"]["weights_sha256"] == done["summary"]["weights_sha256"]

    measured = run(capsys, "eval", "run", "--data", "pictures", "--split", "test")
    assert measured["num_images"] == 12 and measured["top1"] == done["summary"]["final"]["test"]["top1"]

    model = load("run")
    assert (model.spec.input.height, model.spec.input.width) == SIZE
    step = MODELS[name].get("patch_size", 4)  # a CIFAR ResNet halves its map twice
    assert model.features(torch.zeros(1, 3, *SIZE)).grid == (SIZE[0] // step, SIZE[1] // step)
    files = sorted(pictures.glob("test/*/*.png"))
    right = sum(row.label == Path(row.path).parent.name for row in Predictor("run")([str(f) for f in files]))
    assert right == measured["num_correct"]
    assert "[48, 32]" in Path(run(capsys, "report", "run")["report"]).read_text()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mlp_mixer", ["--model.image_size", "96x32"], "token maps taken from a 6x4 grid to 12x4"),
        ("vit", ["--model.patch_size", "16"], "patch kernels resized from 8x8 to 16x16 pixels"),
    ],
)
def test_fine_tuning_at_another_size_is_resumed(
    name: str, changes: list[str], said: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**MODELS[name], "image_size": SIZE}
    save_model(Path("weights"), build(make_spec(name, given, classes=("above", "below"))))
    train = ["train", "--data", "pictures", "--weights", "weights", *changes]
    train += ["--epochs", "2", "--batch_size", "8", "--threads", "1", "--out", "run"]
    assert main([*train, "--max-minutes", "1e-9"]) == 75
    assert said in capsys.readouterr().err
    shutil.rmtree("weights")  # everything is in the checkpoint
    done = run(capsys, "train", "--resume", "run")
    assert done["state"] == "finished"
    model = load("run")
    assert model(torch.zeros(1, 3, *model.spec.arguments["image_size"])).shape == (1, 2)
    arguments = done["summary"]["model"]["arguments"]
    assert arguments.get("token_ratio", 1.0) == 1.0 and arguments["patch_size"] in (8, 16)


@pytest.mark.parametrize("written", ["48x32", "[48, 32]", "48X32"])
def test_a_rectangle_is_written_as_rows_by_columns(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--model.{key}={value}" for key, value in MODELS["vit"].items()]
    config = run(capsys, "config", "--model", "vit", *given, "--model.image_size", written)
    assert config["model"]["image_size"] == list(SIZE)
    shown = run(capsys, "models", "show", "vit", *given, "--model.image_size", written)
    assert shown["image_size"] == list(SIZE) and shown["grid"] == [6, 4]


def test_a_rectangle_that_the_patch_does_not_divide_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--model.{key}={value}" for key, value in MODELS["vit"].items()]
    assert main(["config", "--model", "vit", *given, "--model.image_size", "48x36"]) == 2
    assert (
        "image_size 48x36 is not divisible by patch_size 8: the nearest that is: 48x32"
        in capsys.readouterr().err
    )

"""`isopatch eval --sizes`: a model at several picture sizes, in a table, as JSON and as a picture."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from isopatch import api
from isopatch.cli import main
from isopatch.models.load import load
from isopatch.models.resize import resize_table
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

VIT: dict[str, Any] = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "image_size": 32}
MIXER: dict[str, Any] = {"dim": 16, "depth": 1, "patch_size": 8, "image_size": 32}


def weights(folder: Path, name: str, arguments: dict[str, Any]) -> Isotropic:
    model = build(make_spec(name, arguments, classes=("dark", "light"))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(folder, model)
    return model


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test split of eight pictures in two classes, none of the model's size."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (50, 44), (level, level, 30 * number)).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["eval", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_every_size_has_its_row(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(Path("model"), "vit", VIT)
    out, err = run(capsys, "model", "--data", "pictures", "--sizes", "16,32,24x40,20,32", "--json")
    document = json.loads(out)
    small, own, wide, refused = document["sizes"]  # the second 32 says nothing new
    assert [row["image_size"] for row in document["sizes"]] == [[16, 16], [32, 32], [24, 40], [20, 20]]
    assert [row["trained"] for row in document["sizes"]] == [False, True, False, False]
    assert own["resized"] == []
    assert small["resized"] == [{"what": "positions", "how": "deit", "from": [4, 4], "to": [2, 2]}]
    assert wide["resized"] == [{"what": "positions", "how": "deit", "from": [4, 4], "to": [3, 5]}]
    assert (wide["grid"], wide["tokens"]) == ([3, 5], 16) and small["macs"] < own["macs"]
    assert refused["refused"].startswith("image_size 20x20 is not divisible by patch_size 8")
    assert refused["top1"] is None and refused["images_per_second"] is None
    for row in (small, own, wide):
        rate = row["images_per_second"]
        assert 0 < rate["quartiles"][0] <= rate["median"] <= rate["quartiles"][1] and rate["batches"] >= 3
        assert row["num_images"] == document["num_images"] == 8
    assert document["plot"] == "model-sizes-test.png" and "24x40: top-1" in err


def test_its_own_size_is_the_plain_evaluation(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(Path("model"), "vit", VIT)
    plain = api.evaluate_checkpoint("model", "pictures")
    out, _ = run(capsys, "model", "--data", "pictures", "--sizes", "32", "--json")
    row = json.loads(out)["sizes"][0]
    assert (
        row["nll"] == pytest.approx(plain.nll, abs=1e-12)
        and row["num_correct"] == plain.scalars["num_correct"]
    )


def test_another_size_is_what_loading_at_it_gives(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(Path("model"), "vit", VIT)
    for mode in ("deit", "jax"):
        out, _ = run(
            capsys, "model", "--data", "pictures", "--sizes", "48", "--position-resize", mode, "--json"
        )
        row = json.loads(out)["sizes"][0]
        save_model(Path(mode), load("model", image_size=48, position_resize=mode))
        assert row["nll"] == pytest.approx(api.evaluate_checkpoint(mode, "pictures").nll, abs=1e-9)
        assert row["resized"][0]["how"] == mode


def test_the_table_and_the_plot(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(Path("model"), "mlp_mixer", MIXER)
    out, _ = run(capsys, "model", "--data", "pictures", "--sizes", "32,40,64", "--plot", "sizes.png")
    lines = out.splitlines()
    assert lines[0].startswith("mlp_mixer on test, 8 pictures; cpu, fp32")
    assert lines[2].startswith("32x32*") and lines[2].endswith("nothing")
    assert lines[3].endswith("cannot be taken, see below")
    assert lines[4].endswith("token maps 4x4 to 8x8 (one block per part)")
    assert lines[6].startswith("40x40: ") and "a 4x4 grid, not of 5x5" in lines[6]
    assert lines[7] == "plot: sizes.png"
    content = Path("sizes.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (960, 810)
    with Image.open("sizes.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(100_000) or []}
    assert {(59, 111, 212), (224, 123, 57)} <= colors  # both curves are there


def test_pictures_are_decoded_once(
    pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from isopatch.data.sources import folder

    weights(Path("model"), "vit", VIT)
    read = folder.FolderSource.read
    reads = []
    monkeypatch.setattr(
        folder.FolderSource, "read", lambda self, index: (reads.append(index), read(self, index))[1]
    )
    run(capsys, "model", "--data", "pictures", "--sizes", "16", "--json")
    once = len(reads)
    run(capsys, "model", "--data", "pictures", "--sizes", "16,24,32,40", "--json")
    assert len(reads) == 2 * once


def test_a_run_gets_the_plot_into_its_folder(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(Path("run/best"), "vit", VIT)
    Path("run/config.yaml").write_text("")
    out, _ = run(capsys, "run", "--data", "pictures", "--split", "train", "--sizes", "32")
    assert out.splitlines()[-1] == "plot: run/sizes-train.png" and Path("run/sizes-train.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sizes", "20,28"], "image_size 28x28 is not divisible by patch_size 8"),
        (["--sizes", "32,big"], "--sizes big: give pixels, as in 384, or rows x columns, as in 96x128"),
        (["--sizes", ""], "--sizes : give pixels"),
        (["--sizes", "32", "--min-acc", "0.5"], "--min-acc is a gate on one evaluation"),
        (["--sizes", "32", "--teacher", "t"], "--teacher belongs to one evaluation"),
        (["--sizes", "32", "--baseline", "b"], "--baseline belongs to one evaluation"),
        (["--sizes", "32", "--plot", "sizes.svg"], "a name that ends in .png"),
        (["--sizes", "32", "--plot", "nowhere/sizes.png"], "there is no folder nowhere"),
        (["--position-resize", "jax"], "--position-resize says something about --sizes"),
        (["--plot", "sizes.png"], "--plot says something about --sizes"),
    ],
)
def test_mistakes_are_named(
    pictures: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    weights(Path("model"), "vit", VIT)
    out, err = run(capsys, "model", "--data", "pictures", *options, code=2)
    assert out == "" and words in err and not list(Path().glob("*.png"))


def test_a_model_loaded_at_another_size_is_saved_as_it_is(tmp_path: Path) -> None:
    """The resized table is part of the model: saved and loaded again, nothing is resized a second time."""
    distilled = {**VIT, "image_size": (32, 40)}
    original = weights(tmp_path / "own", "deit_tiny_distilled", distilled)
    loaded = load(tmp_path / "own", image_size=(48, 24), position_resize="timm")
    save_model(tmp_path / "other", loaded)
    again = load(tmp_path / "other")
    assert again.spec == loaded.spec and again.spec.input.height == 48
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    table = original.position.table.detach()
    assert torch.equal(state["position.table"], resize_table(table, (4, 5), (6, 3), 2, "timm"))
    x = torch.randn(2, 3, 48, 24)
    assert torch.equal(again(x), loaded(x))

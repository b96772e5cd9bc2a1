"""`isopatch eval --suite robustness` end to end on digits: JSON, page, plot, text; refusals."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch import api
from isopatch.cli import main
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier
from isopatch.robustness.calibration import COLDEST
from isopatch.training.config import RunConfig

SMALL = {"dim": 24, "depth": 2, "kernel_size": 3, "patch_size": 2, "image_size": 8}
RUN = {
    "model": {"name": "convmixer", **SMALL},
    "data": {"source": "digits"},
    "epochs": 6,
    "batch_size": 128,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = RunConfig.model_validate({**RUN, "augment": {"flip": 0.0}, "optimizer": {"lr": 0.01}})
    api.train(config, out=folder, quiet=True)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["eval", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_suite_of_a_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (str(trained), "--data", "digits", "--suite", "robustness", "--suite-pictures", "120")
    document = json.loads(run(capsys, *command, "--json")[0])
    folder = trained / "robustness-test"
    assert json.loads((folder / "robustness.json").read_text()) == document
    plain = api.evaluate_checkpoint(trained, "digits")
    assert document["clean"]["num_correct"] == plain.scalars["num_correct"]
    assert document["clean"]["ece"] == pytest.approx(plain.scalars["ece"], abs=1e-6)
    assert document["num_images"] == 359 and 110 <= document["damaged_images"] <= 130

    rows = {row["name"]: [level["top1"] for level in row["levels"]] for row in document["corruptions"]}
    assert len(rows) == 9 and all(len(levels) == 5 for levels in rows.values())
    assert document["clean"]["top1"] > 0.6
    assert np.mean([levels[0] for levels in rows.values()]) > np.mean([levels[4] for levels in rows.values()])
    assert document["summary"]["mean_top1"] == pytest.approx(np.mean(list(rows.values())))
    for row in document["corruptions"]:
        for level in row["levels"]:
            assert level["drop"] == pytest.approx(document["clean_sample"]["top1"] - level["top1"])
            assert level["drop_interval"][0] < level["drop"] < level["drop_interval"][1]
    assert [row["tiles"] for row in document["shuffled"]] == [[2, 2], [4, 4]]
    assert [row["patches"] for row in document["shuffled"]] == [False, True]
    assert document["shuffled"][1]["top1"] < document["clean_sample"]["top1"]
    recalls = [row["recall"] for row in document["classes"]]
    assert recalls == sorted(recalls) and len(recalls) == 10

    text, _ = run(capsys, *command, "--corruptions", "shift,gaussian-noise")  # again, over its own files
    assert "not ImageNet-C" in text and "gaussian-noise" in text and "calibration on half" in text
    again = json.loads((folder / "robustness.json").read_text())
    assert again["corruptions"] == [document["corruptions"][7], document["corruptions"][0]]
    assert again["calibration"] == document["calibration"] and again["shuffled"] == document["shuffled"]
    with Image.open(folder / "robustness.png") as plot:
        assert plot.size[0] > 1000


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.external: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "img":
            self.images.append(values["src"] or "")
        self.external += [v for k, v in attributes if k in ("src", "href") and v and v.startswith("http")]


def test_the_page(trained: Path) -> None:
    kinds = ["jpeg", "occlusion"]
    document = api.robustness(trained, "digits", pictures=50, kinds=kinds, out=trained / "two")
    text = (trained / "two" / "robustness.html").read_text()
    page = Page(text)
    assert len(page.images) == 1 + 2 * 3 and page.external == []
    assert all(uri.startswith("data:image/png;base64,") for uri in page.images)
    assert "not ImageNet-C" in text and "gaussian-noise" not in text
    for row in document["corruptions"]:
        for level in row["levels"]:
            assert f">{100 * level['top1']:.1f}</td>" in text
    assert text.count("<svg") >= 5


def test_a_model_that_sums_its_patches_loses_nothing_by_their_order(tmp_path: Path) -> None:
    """Kernel size 1: a ConvMixer without neighbours counts patches. With kernel size 3 it is not so."""
    torch.manual_seed(0)
    shares = {}
    for kernel in (1, 3):
        arguments = {"dim": 16, "depth": 2, "kernel_size": kernel, "patch_size": 2, "image_size": 8}
        model = build(make_spec("convmixer", {**arguments, "num_classes": 10}, classes=tuple("0123456789")))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        save_model(tmp_path / f"k{kernel}", model.eval())
        found = api.robustness(tmp_path / f"k{kernel}", "digits", kinds=[], out=tmp_path / f"out{kernel}")
        assert found["corruptions"] == [] and found["summary"]["mean_top1"] is None
        assert {row["damaged_recall"] for row in found["classes"]} == {None}  # nothing was damaged
        (patches,) = [row for row in found["shuffled"] if row["patches"]]
        shares[kernel] = (found["clean_sample"]["confidence"], patches["confidence"], patches["drop"])
    assert shares[1][0] == pytest.approx(shares[1][1], abs=1e-6) and shares[1][2] == 0
    assert abs(shares[3][0] - shares[3][1]) > 1e-3


def test_other_weights_get_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8, "num_classes": 10}
    save_model(tmp_path / "weights", build(make_spec("convmixer", arguments, classes=tuple("0123456789"))))
    model: Classifier = load("weights")
    assert model.spec.classes is not None
    options = ("--suite", "robustness", "--corruptions", "jpeg", "--suite-pictures", "20", "--workers", "1")
    run(capsys, "weights", "--data", "digits", *options)
    assert (tmp_path / "weights-robustness-test" / "robustness.html").is_file()
    one = (tmp_path / "weights-robustness-test" / "robustness.json").read_text()
    run(capsys, "weights", "--data", "digits", *options[:-2], "--batch-size", "7")
    other = json.loads((tmp_path / "weights-robustness-test" / "robustness.json").read_text())
    for row, same in zip(json.loads(one)["corruptions"], other["corruptions"], strict=True):
        for level, equal in zip(row["levels"], same["levels"], strict=True):
            assert level["num_correct"] == equal["num_correct"]
    (tmp_path / "weights-robustness-test" / "robustness.html").write_text("<p>somebody's own page</p>")
    _, err = run(capsys, "weights", "--data", "digits", *options, code=2)
    assert "is no isopatch report" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "robustness", "--corruptions", "jpg"], r"--corruptions jpg: there are .*mean 'jpeg'"),
        (["--suite", "robustness", "--teacher", "x"], "--teacher has no meaning with --suite"),
        (["--suite", "robustness", "--probe", "knn"], "ask for one of them at a time"),
        (["--suite", "robust"], "invalid choice"),
        (["--suite-pictures", "5"], "--suite-pictures says something about --suite"),
        (["--out", "x"], "--out says something about --suite"),
        (["--suite", "robustness", "--out", "file/x"], "--out file/x: cannot be made"),
    ],
)
def test_refused(
    options: list[str],
    message: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    _, err = run(capsys, str(trained), "--data", "digits", *options, code=2)
    assert re.search(message, err), err


def test_python_refuses_too(trained: Path) -> None:
    options: dict[str, Any]
    for options in ({"pictures": -1}, {"seed": -1}, {"kinds": ["snow"]}):
        with pytest.raises(ValueError, match=r"suite-pictures|suite-seed|snow"):
            api.robustness(trained, "digits", **options)


def test_a_temperature_at_the_end_of_the_search_is_none(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("isopatch.robustness.calibration.fit_temperature", lambda *given: COLDEST)
    out = tmp_path / "page"
    command = (str(trained), "--data", "digits", "--suite", "robustness", "--suite-pictures", "40")
    text, _ = run(capsys, *command, "--corruptions", "shift", "--out", str(out))
    page = (out / "robustness.html").read_text()
    assert "no temperature: the other half" in text and "with temperature" not in text
    assert "No temperature: on the" in page and "With temperature" not in page

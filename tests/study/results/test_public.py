"""Nothing that leaves a study's folder tells a path of the machine, and what had one is still told apart."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from isopatch.study.cells import slugs
from isopatch.study.export import export_study
from isopatch.study.folder import begin
from isopatch.study.load import load_study
from isopatch.study.planned import Plan, PlannedRun, run_path
from isopatch.study.public import PublicNames, told_without_paths, without_paths
from isopatch.study.report import read_document
from isopatch.training.config import RunConfig

SIZES = {"parameters": 1, "macs": 1, "steps": 1}


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("/home/ann/cifar", "cifar"),
        ("~ann/my pictures/", "my pictures"),
        ("../up/there", "there"),
        ("one=/home/a/x,timm:resnet18,~/b/y", "one=x,timm:resnet18,y"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("owner/name", "owner/name"),
        ("3 / 4, and/or", "3 / 4, and/or"),
        ({"/a/b": ["/c/d", 3, None]}, {"b": ["d", 3, None]}),
    ],
)
def test_a_value_keeps_the_last_part_of_a_path(told, kept):
    assert without_paths(told) == kept


def test_an_error_keeps_its_words():
    said = "data.source=/tmp/a/pics: no 'train' in (/tmp/a); see https://example.org/x or ~/notes.txt"
    assert told_without_paths(said) == (
        "data.source=pics: no 'train' in (a); see https://example.org/x or notes.txt"
    )


@pytest.fixture
def secret(tmp_path):
    """A study whose data are in three folders, two of one name; every run but one has planted results."""
    places = [str(tmp_path / "mine" / "pics"), str(tmp_path / "yours" / "pics"), str(tmp_path / "more")]
    levels = ["digits", "pics", *places]
    declared = {
        "name": "places",
        "question": f"Are the pictures in {places[1]} harder than its neighbours?",
        "base": {"model": "vit", "recipe": "small", "weights": str(tmp_path / "start.safetensors")},
        "factors": {"data": levels, "depth": [1, 2]},
        "seeds": 2,
        "equal": {"epochs": 1},
        "hypotheses": [
            {
                "claim": f"{places[0]} beats digits",
                "better": {"data": places[0]},
                "worse": {"data": "digits"},
            },
            {"claim": "Two places differ", "better": {"data": places[0]}, "worse": {"data": places[1]}},
            {"claim": "The best does", "better": {"data": "@best"}, "worse": {"data": places[2]}},
        ],
    }
    (tmp_path / "declared.yaml").write_text(yaml.safe_dump(declared))
    study = load_study(tmp_path / "declared.yaml")
    cells = [{"data": data, "depth": depth} for data in levels for depth in ("1", "2")]
    config = RunConfig.model_validate({"model": {"name": "vit"}}).model_dump(mode="json")
    runs = tuple(
        PlannedRun(f"{name}-seed{seed}", name, cell, seed, config, {}, False, "vit", 1, 1, 1, 1, 1, "x")
        for name, cell in zip(slugs(cells), cells, strict=True)
        for seed in (0, 1)
    )
    folder = tmp_path / "study"
    begin(folder, study, lambda _: Plan(study, runs))
    for number, run in enumerate(runs[:-1]):
        path = run_path(folder, run.id)
        path.mkdir(parents=True)
        top1 = 0.5 + 0.01 * ((7 * number) % 11)
        summary = {
            **SIZES,
            "final": {split: {"top1": top1} for split in ("val", "test")},
            "data": {"train": 1, "fingerprint": "x"},
            **{"seed": run.seed, "images_seen": 1, "seconds": 1.0 + number, "precision": "fp32"},
            **{
                "images_per_second": 1.0,
                "kernels": "plain",
                "threads": 1,
                "hardware": "a machine",
                "weights_sha256": "0",
            },
        }
        evaluated = [{"kind": "eval", "step": step, "weights": "model", "top1": top1} for step in (1, 2)]
        (path / "status.json").write_text('{"state": "finished"}')
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "config.yaml").write_text("batch_size: 1\n")
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluated))
    (folder / "failures").mkdir(exist_ok=True)
    error = f"data.source={places[2]}: no pictures; see {run_path(folder, runs[-1].id)}/log.txt"
    record = {"run": runs[-1].id, "error": error, "exit_code": 1, "job": "training", "log": ""}
    (folder / "failures" / f"{runs[-1].id}.json").write_text(json.dumps(record))
    return folder


def test_no_path_is_in_anything_that_is_exported(secret, tmp_path):
    files = export_study(secret, tmp_path / "export")
    told = re.compile(
        "|".join(re.escape(part) for part in (*tmp_path.parts[1:], "mine", "yours") if len(part) > 3)
        + r"|[^\w.<*]/tmp|-tmp-",
        re.IGNORECASE,
    )
    declared = (secret / "study.yaml").read_text()
    assert told.search(declared), "the control"
    for file in files:
        if file.suffix != ".png":
            found = told.search(file.read_text())
            assert found is None, (file.name, file.read_text()[max(0, found.start() - 60) : found.end() + 60])


def test_what_had_a_path_is_still_told_apart(secret, tmp_path):
    export_study(secret, tmp_path / "export")
    with (tmp_path / "export" / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert {row["factor.data"] for row in runs} == {"digits", "pics", "pics.2", "pics.3", "more"}
    assert len({row["cell"] for row in runs}) == 10 and len({row["run"] for row in runs}) == 19
    assert {row["run"] for row in runs if row["factor.data"] == "pics.2"} == {
        f"data-pics.2_depth-{depth}-seed{seed}" for depth in (1, 2) for seed in (0, 1)
    }
    document = read_document(secret)
    names = [cell["cell"] for cell in document["analysis"]["cells"]]
    assert len(set(names)) == 10
    assert all(set(front) <= set(names) for front in document["analysis"]["fronts"].values())
    assert {curve["cell"] for curve in document["curves"]} == set(names)
    assert document["declared"]["factors"]["data"] == ["digits", "pics", "pics.2", "pics.3", "more"]
    verdicts = document["analysis"]["verdicts"]
    assert verdicts[0]["claim"] == "pics.2 beats digits"
    assert "data pics.2 minus data pics.3 is" in verdicts[1]["sentence"]
    (failed,) = (run for run in document["runs"] if run["state"] == "failed")
    assert failed["run"] == "data-more_depth-2-seed1"
    assert failed["error"] == "data.source=more: no pictures; see log.txt"
    assert "--data" not in document["command"], "a factor says which"


def test_without_paths_every_name_stays(secret):
    plan = Plan(load_study(secret), ())
    names = PublicNames.of(plan, {"factors": {"stem": ["patch", "a/b"], "data": ["digits"]}})
    said = {"stem-patch_data-digits-seed0": ["patch", 0.5, ("a/b", None)]}
    assert names(said) == said
    assert Path("/a/b").name == "b"

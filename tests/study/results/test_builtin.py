"""Every built-in study loads, plans and runs, states what it expects and from where, and has a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("isopatch.study.load", reason="the study runner is not in this tree")

from isopatch import cli
from isopatch.study.cells import cells
from isopatch.study.load import builtin_names, load_study
from isopatch.study.planning import plan

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "src" / "isopatch" / "study" / "builtin"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
ASKED = {
    "attention-or-patches",
    "patch-size",
    "kernel-size",
    "width-depth",
    "convmixer-ablation",
    "distillation",
    "resolution",
    "data-scale",
    "compute",
    "transfer",
    "positions",
}


def test_the_studies_that_were_promised_are_there():
    assert set(NAMES) == ASKED == set(builtin_names())


@pytest.mark.parametrize("small", [False, True], ids=["full", "small"])
@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_states_what_it_expects(name, small):
    study = load_study(name, small=small)
    assert study.name == name and study.question and study.paper
    assert len(cells(study)) >= 4
    assert study.hypotheses
    if not small:
        assert all(claim.source for claim in study.hypotheses)
        assert len(study.seed_list) >= 3
    else:
        assert study.base["data"] == "digits"


@pytest.mark.parametrize("name", NAMES)
def test_its_small_form_plans(name):
    study = load_study(name, small=True)
    made = plan(study)
    assert len({run.id for run in made.runs}) == len(made.runs)
    assert {name for run in made.runs for name in run.needs} <= set(study.before)
    assert len([run for run in made.runs if not run.before]) == len(cells(study)) * len(study.seed_list)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_full_form_plans(name):
    """On digits, whose pictures become as large as the models want: sizes and lengths are CIFAR-10's."""
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    if name == "transfer":
        pytest.skip("its targets are data sets that have to be fetched")
    made = plan(load_study(name, data="digits"))
    runs = [run for run in made.runs if not run.before]
    assert len(runs) >= 12
    held = document["equal"]
    if "training_flops" in held:
        assert all(run.training_flops == pytest.approx(held["training_flops"], rel=0.02) for run in runs)
        assert min(run.images for run in runs) >= 250_000
    else:
        assert all(run.images == pytest.approx(held["images"], rel=0.02) for run in runs)
    if "match" in document:
        sizes = [run.parameters for run in runs]
        reference = next(run for run in runs if run.levels == document["match"]["like"]).parameters
        assert all(size == pytest.approx(reference, rel=document["match"]["parameters"]) for size in sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_end_to_end_on_digits(name, tmp_path, capsys):
    folder = tmp_path / name
    amount = (
        load_study(name, small=True).equal.amount / 10
    )  # shows that it runs; what it finds is in results/
    command = ["study", "run", name, "--small", f"--equal={amount}", "--out", str(folder)]
    command += ["--in-process", "--threads", "1"]
    assert cli.main(command) == 0
    capsys.readouterr()
    assert cli.main(["study", "status", str(folder), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["done"] == status["planned"] > 0 and status["failed"] == status["running"] == 0
    assert cli.main(["study", "report", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    study = load_study(name, small=True)
    assert text.count('class="pill ') == 1 + len(study.hypotheses)
    assert "not complete" not in text and "cannot" not in re.sub(r"cannot be estimated", "", text)
    assert text.count("<svg") >= 2


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_page_that_says_how_to_run_it(name):
    page = (ROOT / "docs" / "studies" / f"{name}.md").read_text()
    assert f"isopatch study run {name} --small" in page
    for part in ("What it asks.", "How it is computed.", "How to read it.", "What misleads."):
        assert f"**{part}**" in page
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "docs" / "studies" / target).exists(), target

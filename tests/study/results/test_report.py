"""The page and the export of a study: complete, honest about what is missing, and without paths."""

from __future__ import annotations

import csv
import json
import re

import pyarrow as pa
import pytest

from isopatch.errors import UsageError
from isopatch.report.study_markdown import study_markdown
from isopatch.report.study_page import cell_rows, study_plots, write_study_page
from isopatch.study.analyse import analyse
from isopatch.study.export import write_export
from isopatch.study.report import build_document

LEVELS = {"kernel_size": ["3", "5"], "stem": ["patch", "overlap"]}
DECLARED = {
    "name": "kernels",
    "question": "Do <large> kernels help?",
    "paper": "They do & more.",
    "base": {"data": "/home/somebody/cifar10", "model": "convmixer"},
    "equal": {"images": 250000},
    "match": {"like": {"kernel_size": "3"}},  # study.yaml leaves out what is the default
}


def value(kernel_size, stem, seed):
    return (
        0.6
        + 0.01 * int(kernel_size)
        + 0.02 * (stem == "overlap")
        + 0.003 * ((seed * 7 + int(kernel_size)) % 3)
    )


@pytest.fixture
def table(rows_of):
    rows = rows_of(LEVELS, value)
    for row in rows:
        row["parameters"] = 1000 * int(row["factor.kernel_size"])
        row["macs"] = 10**6 * int(row["factor.kernel_size"])
    return rows


@pytest.fixture
def document(design, claim, tmp_path):
    """From rows to the document; failed: runs without a result, as `status` has them."""

    def build(rows, failed=(), running=0, runs=tmp_path):
        study = design(
            {factor: {name: {} for name in names} for factor, names in LEVELS.items()},
            [claim("Five beats three", {"kernel_size": "5"}, {"kernel_size": "3"}),
             claim("Six beats three", {"kernel_size": "6"}, {"kernel_size": "3"})],
        )  # fmt: skip
        states = [{"run": row["run"], "state": "done", "error": None} for row in rows]
        states += [{"run": run, "state": "failed", "error": error} for run, error in failed]
        status = {
            "planned": len(states) + running,
            "done": len(rows),
            "failed": len(failed),
            "running": running,
            "runs": states,
        }
        return build_document(DECLARED, analyse(rows, study), rows=rows, status=status, runs=runs)

    return build


def visible(page):
    """The text of a page, without style and plots."""
    text = re.sub(r"<(style|svg).*?</\1>", "", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def test_the_page_has_the_question_the_verdicts_and_every_cell(table, document, tmp_path):
    page = write_study_page(document(table), tmp_path / "report.html")
    text = visible(page)
    assert "Do &lt;large&gt; kernels help?" in text and "They do &amp; more." in text
    assert "12 of 12 runs are finished" in text and "not complete" not in text
    assert "Supported: kernel_size 5 minus kernel_size 3 is +2." in text
    assert "Not certain: no finished pair of runs differs in this alone" in text
    assert text.index("Verdicts") < text.index("Cells") < text.index("How it was done")
    cells = {(cell.levels["kernel_size"], cell.levels["stem"]) for cell in analyse_cells(document(table))}
    assert len(cells) == 4
    assert text.count("overlap") >= 2 and "250,000 pictures seen" in text
    assert "parameters within 2.0 %, by model.dim" in text
    assert "isopatch study run study.yaml --data cifar10" in text
    assert page.read_text().count("<svg") >= 5
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page.read_text())  # nothing is loaded


def analyse_cells(document):
    class Cell:
        def __init__(self, values):
            self.levels = values["levels"]

    return [Cell(cell) for cell in document["analysis"]["cells"]]


def test_missing_and_failed_runs_are_told(table, document, tmp_path):
    failed = [("kernel_size-5_stem-overlap-seed2", "/secret/place/config.yaml: loss is nan at step 12\nmore")]
    page = write_study_page(document(table[:-1], failed, running=1), tmp_path / "report.html")
    text = visible(page)
    assert "not complete: 11 of 13 runs are finished, 1 running, 1 failed" in text
    assert "seeds are missing" in text
    assert "loss is nan at step 12" in text and "kernel_size-5_stem-overlap-seed2" in text
    assert "2 finished runs have no partner" not in text and "1 finished run has no partner" in text
    assert "secret" not in page.read_text()


def test_a_study_without_any_result_has_a_page(document, tmp_path):
    page = write_study_page(document([], running=2), tmp_path / "report.html")
    assert "No run has finished yet" in visible(page)
    assert "<svg" not in page.read_text()


def test_one_seed_gives_no_interval(rows_of, document, tmp_path):
    page = write_study_page(document(rows_of(LEVELS, value, seeds=[0])), tmp_path / "report.html")
    text = visible(page)
    assert "one run: its spread is unknown" in text and "Every cell has one run" in text


def test_no_interval_of_an_accuracy_goes_beyond_100_percent(rows_of, document):
    """Two seeds that are far apart: Student's interval would."""
    built = document(rows_of(LEVELS, lambda kernel_size, stem, seed: 0.5 + 0.4 * seed, seeds=[0, 1]))
    assert built["analysis"]["cells"][0]["top1"]["t"][1] > 1  # the control
    assert {row.interval for row in cell_rows(built["analysis"]["cells"])} == {"0.00 to 100.00 %"}


def test_no_path_of_the_machine_is_passed_on(table, document, tmp_path):
    built = document(table)
    write_study_page(built, tmp_path / "report.html")
    files = write_export(built, pa.Table.from_pylist(table), tmp_path / "export")
    for file in [tmp_path / "report.html", *files]:
        assert b"somebody" not in file.read_bytes(), file
    assert "somebody" in json.dumps(DECLARED)  # the control


def test_the_page_is_the_same_twice_and_replaces_nothing_else(table, document, tmp_path):
    out = tmp_path / "report.html"
    first = write_study_page(document(table), out).read_bytes()
    assert write_study_page(document(table), out).read_bytes() == first
    other = tmp_path / "other.html"
    other.write_text("mine")
    with pytest.raises(UsageError, match="no isopatch report"):
        write_study_page(document(table), other)


def test_the_export_holds_the_figures(table, document, tmp_path):
    built = document(table)
    out = tmp_path / "export"
    files = write_export(built, pa.Table.from_pylist(table), out)
    assert all(file.stat().st_size for file in files)
    with (out / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    own = [row["top1"] for row in table if row["cell"] == "kernel_size-5_stem-patch"]
    row = next(row for row in cells if row["cell"] == "kernel_size-5_stem-patch")
    assert float(row["top1"]) == pytest.approx(sum(own) / 3) and row["runs"] == "3"
    assert float(row["t_low"]) < float(row["top1"]) < float(row["t_high"])
    with (out / "verdicts.csv").open() as file:
        verdicts = list(csv.DictReader(file))
    assert [row["outcome"] for row in verdicts] == ["supported", "not certain"]
    assert float(verdicts[0]["p_holm"]) == pytest.approx(2 * float(verdicts[0]["p"]))
    with (out / "effects.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    with (out / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(table)
    readme = (out / "README.md").read_text()
    for target in re.findall(r"\]\((plots/[^)]+)\)", readme):
        assert (out / target).is_file()
    assert readme.count("![") == len(list((out / "plots").glob("*.png"))) >= 5
    assert (out / "plots" / "verdicts.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "plots" / "verdicts.svg").read_bytes().startswith(b"<?xml")


def test_equal_costs_are_not_drawn(table, document):
    names = {plot.name for plots in study_plots(document(table)).values() for plot in plots}
    assert {"pareto-parameters", "pareto-macs", "by-kernel-size", "by-stem", "verdicts"} <= names
    assert "pareto-seconds" not in names  # every run took 4 s


def test_many_combinations_are_drawn_too(rows_of, design, tmp_path):
    levels = {"a": [str(i) for i in range(9)], "b": ["x", "y", "z"], "c": ["true", "false"]}
    rows = rows_of(levels, lambda a, b, c, seed: 0.5 + int(a) / 100 + 0.001 * seed)
    study = design({factor: {name: {} for name in names} for factor, names in levels.items()})
    status = {"planned": 162, "done": 162, "failed": 0, "running": 0, "runs": []}
    built = build_document({"name": "many"}, analyse(rows, study), rows=rows, status=status, runs=tmp_path)
    page = write_study_page(built, tmp_path / "report.html")
    assert "Grey: the 6 combinations" not in page.read_text()  # of b and c: each has its colour
    assert "Grey: the 27 combinations" in page.read_text()  # factor c: 27 of a and b


def test_learning_curves_come_from_the_run_folders(table, document, tmp_path):
    for row in table[:6]:
        folder = tmp_path / "runs" / row["run"]
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("batch_size: 32\n")
        lines = [
            {
                "kind": "eval",
                "weights": "model",
                "step": step,
                "epoch": step / 10,
                "top1": step / 100,
                "nll": 1.0,
            }
            for step in (10, 20, 30)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    built = document(table, runs=tmp_path / "runs")
    assert len(built["curves"]) == 6
    assert built["curves"][0]["images"] == [320.0, 640.0, 960.0]
    assert [plot.name for plot in study_plots(built)["curves"]] == ["curves"]


def test_the_exported_page_reads_well(table, document):
    for row in table:
        row["probe.knn.k-10"] = 0.25
    built = document(table[:-1], running=1)
    built["question"] += "\n"
    built["analysis"]["verdicts"][0]["claim"] += "."
    text = study_markdown(built)
    assert "\n\n\n" not in text and ".." not in text and text.endswith("```\n")
    assert "- **Five beats three.** Not" in text and "- **Six beats three.** Not certain" in text
    blocks = text.split("\n\n")
    assert blocks[:2] == ["# kernels", "Do <large> kernels help?"] and blocks[3] == "## Verdicts"
    assert blocks[2].startswith("> This study is not complete") and "\n>\n> Cells have 2 to 3" in blocks[2]
    head, _, first, *_ = next(block for block in blocks if block.startswith("| kernel_size")).splitlines()
    assert "| test top-1 |" in head and head.endswith("| training time | probe.knn.k-10 |")
    assert first.endswith("| 25.00 % |") and head.count("|") == first.count("|")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"base": {"data": "cifar10"}}, " --data cifar10 "),
        ({"base": {"data.source": "cifar10"}}, " --data cifar10 "),
        (
            {"base": {"data": {"source": "/home/somebody/my pics", "workers": 2}}},
            " --data 'my pics' ",
        ),
        ({"base": {"model": "convmixer"}}, None),
        ({}, None),
        ({"base": {"data": "digits"}, "factors": {"data": ["digits", "cifar10"]}}, None),
        ({"base": {"data": "digits"}, "factors": {"set": {"a": {"data": {"source": "digits"}}}}}, None),
        ({"base": {"data": "digits"}, "factors": {"data_fraction": [0.1, 1.0]}}, " --data digits "),
    ],
)
def test_the_command_names_the_data_that_all_runs_share(design, tmp_path, keys, said):
    status = {"planned": 0, "done": 0, "failed": 0, "running": 0, "runs": []}
    analysis = analyse([], design({}))
    built = build_document({"name": "a", **keys}, analysis, rows=[], status=status, runs=tmp_path)
    command = built["command"].splitlines()[0]
    assert (said in command) if said else "--data" not in command
    assert command.startswith("isopatch study run study.yaml ") and command.endswith(" --out studies/a")

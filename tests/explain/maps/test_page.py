"""Files and page of explanations, whatever the explanations are."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from isopatch.errors import UsageError
from isopatch.explain.contract import Context, Explanation, Figure
from isopatch.explain.made import Made, make
from isopatch.explain.page import write_files
from isopatch.explain.table import EXPLANATIONS, find
from isopatch.nn.classifier import Classifier

SVG = '<svg viewBox="0 0 9 9" role="img"><path stroke="var(--muted)" d="M0 0"/><text>a &lt; b</text></svg>'
DOCUMENT = {
    "title": "<b>model</b>", "source": "runs/x", "parameters": 12345, "compare": [], "pictures": [],
    "data": None, "seed": 0, "notes": ["one <file> left out"],
}  # fmt: skip


def explanation(name: str, *figures: Figure) -> Explanation:
    return Explanation(name, "what is it?", "weights", lambda model: None, lambda context: list(figures))


def made() -> list[Made]:
    chart = Figure("chart", "A chart", "How to read it.", svg=SVG, data={"x": [1, 2]})
    picture = Figure("picture", "A <picture>", "The same.", png=b"\x89PNG", warning="it fails")
    again = Figure("again", "Another", "The same.", png=b"\x89PNG")
    return [
        Made(explanation("first", chart), (chart,)),
        Made(explanation("second", picture, again), (picture, again)),
        Made(explanation("third"), skipped="has no attention"),
    ]


def test_figures_numbers_and_page(tmp_path: Path) -> None:
    whole = write_files(tmp_path / "out", DOCUMENT, made())
    svg = (tmp_path / "out" / "first-chart.svg").read_text()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in svg
    assert (tmp_path / "out" / "second-picture.png").read_bytes() == b"\x89PNG"
    assert json.loads((tmp_path / "out" / "explanations.json").read_text()) == whole
    assert [one["skipped"] for one in whole["explanations"]] == [None, None, "has no attention"]
    assert whole["explanations"][1]["figures"][0]["warning"] == "it fails"
    page = (tmp_path / "out" / "explanations.html").read_text()
    assert 'stroke="var(--muted)"' in page and "xmlns" not in page  # inline it takes the page's colours
    assert "&lt;b&gt;model&lt;/b&gt;" in page and "A &lt;picture&gt;" in page and "one &lt;file&gt;" in page
    assert page.count("The same.") == 1 and "Not reliable here: it fails." in page
    assert "has no attention" in page and "12,345 parameters" in page


def test_only_figures_of_a_call_before_are_removed(tmp_path: Path) -> None:
    write_files(tmp_path, DOCUMENT, made())
    (tmp_path / "mine.png").write_bytes(b"mine")
    outside = tmp_path.parent / "outside.png"
    outside.write_bytes(b"outside")
    numbers = tmp_path / "explanations.json"
    damaged = json.loads(numbers.read_text())
    damaged["explanations"][0]["figures"][0]["file"] = "../outside.png"
    numbers.write_text(json.dumps(damaged))
    write_files(tmp_path, DOCUMENT, [])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"mine.png", "first-chart.svg", "explanations.json", "explanations.html"}
    assert outside.read_bytes() == b"outside"
    numbers.write_text("no json")
    write_files(tmp_path, DOCUMENT, made())


def test_a_page_that_is_not_ours_is_kept(tmp_path: Path) -> None:
    (tmp_path / "explanations.html").write_text("my notes")
    with pytest.raises(UsageError, match="is no isopatch report"):
        write_files(tmp_path, DOCUMENT, made())
    assert (tmp_path / "explanations.html").read_text() == "my notes"
    assert len(list(tmp_path.iterdir())) == 1


def test_names_are_found_once_and_the_nearest_is_said(plant) -> None:
    assert [one.name for one in find(["rollout", "grad-cam", "rollout"])] == ["rollout", "grad-cam"]
    assert len({one.name for one in EXPLANATIONS}) == len(EXPLANATIONS)
    with pytest.raises(UsageError, match=r"'grad_cam' is no explanation \(did you mean 'grad-cam'\?\)"):
        find(["grad_cam"])
    model: Classifier = plant()
    with pytest.raises(UsageError, match="rollout of it: has no attention"):
        make(Context(model=model, name="it", classes=("a", "b")), ["rollout"])
    skipped = {one.explanation.name: one.skipped for one in make(Context(model, "it", ("a", "b")))}
    assert skipped["occlusion"] == "needs pictures: give files, or --data DATA --pictures N"

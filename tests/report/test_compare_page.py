"""Several runs side by side: right figures, honest warnings, only what differs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from isopatch.errors import UsageError
from isopatch.report.compare_page import write_comparison
from isopatch.report.run_page import write_run_report

RunMaker = Callable[..., Path]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAAB"
    "JRU5ErkJggg=="
)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html[html.index("</style>") :]).split())


def top1(run: Path, split: str = "test") -> float:
    return float(json.loads((run / f"evaluation-{split}.json").read_text())["top1"])


def test_runs_side_by_side(make_run: RunMaker, tmp_path: Path) -> None:
    first = make_run("a", skill=3.0)
    second = make_run("b", model="vit_tiny", skill=2.0, seed=1, lr=1e-3)
    out = write_comparison([first, second], tmp_path / "out" / "page.html", title="Two of them")
    html = out.read_text()
    text = text_of(html)
    assert "Two of them" in text
    for run in (first, second):
        assert f"{100 * top1(run):.2f} %" in text
        assert f"{100 * top1(run, 'val'):.2f} %" in text
    for words in ("convmixer_256_8_ks5_p2", "vit_tiny", "594 k", "150 M", "2,113", "41.2 s"):
        assert words in text
    assert html.count("<svg") == 2
    changed = text[text.index("What was set differently") :]
    assert "optimizer.lr 0.005 0.001" in changed
    assert "seed 0 1" in changed
    assert "batch_size" not in changed
    assert not re.search(r"https?://|<script", html)


def test_the_better_run_is_marked(make_run: RunMaker, tmp_path: Path) -> None:
    runs = [make_run("low", skill=1.0), make_run("high", skill=4.0)]
    html = write_comparison(runs, tmp_path / "page.html").read_text()
    (best,) = re.findall(r'<tr class="best">.*?</tr>', html, flags=re.DOTALL)
    assert "high" in best


def test_reports_are_linked_relatively(make_run: RunMaker, tmp_path: Path) -> None:
    run, plain = make_run("odd #name?: 1"), make_run("plain")
    write_run_report(run)
    html = write_comparison([run, plain], tmp_path / "deep" / "page.html").read_text()
    assert re.findall(r'<a href="([^"]*)"', html) == ["./../odd%20%23name%3F%3A%201/report.html"]


def test_references_and_predictions(make_run: RunMaker, tmp_path: Path) -> None:
    shown = [(PIXEL, "3", "3", 0.99), (PIXEL, "4", "9", 0.61), ("https://example.org/x.png", "1", "1", 1.0)]
    keys = ("thumbnail", "label", "prediction", "confidence")
    html = write_comparison(
        [make_run()],
        tmp_path / "page.html",
        reference_rows=[("1-nearest neighbour", 0.982, "raw <pixels>")],
        predictions=[dict(zip(keys, values, strict=True)) for values in shown],
    ).read_text()
    text = text_of(html)
    assert "1-nearest neighbour 98.20 %" in text
    assert "raw &lt;pixels&gt;" in text
    assert html.count(f'src="{PIXEL}"') == 2
    assert "example.org" not in html
    assert "says 9 61.0 % is 4" in text
    assert "says 3 99.0 % as labelled" in text
    assert "There is one run" in text


def test_seeds_of_one_configuration_are_summarised(make_run: RunMaker, tmp_path: Path) -> None:
    runs = [make_run(f"seed {seed}", seed=seed, skill=2.5) for seed in range(3)]
    runs.append(make_run("other", lr=1.0))
    text = text_of(write_comparison(runs, tmp_path / "page.html").read_text())
    values = [top1(run) for run in runs[:3]]
    assert f"convmixer_256_8_ks5_p2 3 {100 * sum(values) / 3:.2f} %" in text
    assert f"{100 * min(values):.2f} % to {100 * max(values):.2f} %" in text


def test_what_is_not_like_for_like_is_said(make_run: RunMaker, tmp_path: Path) -> None:
    other = make_run("b", source="photos")
    (other / "status.json").write_text(json.dumps({"state": "stopped", "step": 12}))
    text = text_of(write_comparison([make_run("a"), other], tmp_path / "page.html").read_text())
    assert "did not use the same data" in text
    assert "b: not finished (stopped, step 12)" in text


def test_only_validation_results_are_said_to_be_optimistic(make_run: RunMaker, tmp_path: Path) -> None:
    runs = [make_run("a", splits=("val",)), make_run("b", splits=("val",), skill=2.0)]
    text = text_of(write_comparison(runs, tmp_path / "page.html").read_text())
    assert "No run has a test result" in text
    assert "val top-1" in text
    assert "test top-1" not in text


@pytest.mark.usefixtures("no_plots")
def test_young_and_damaged_runs_are_harmless(make_run: RunMaker, tmp_path: Path) -> None:
    young = tmp_path / "young"
    young.mkdir()
    (young / "config.yaml").write_text(yaml.safe_dump({"model": {"name": "vit"}, "data": [1], "seed": None}))
    damaged = make_run("damaged", steps=10, epochs=1)
    for name in ("config.yaml", "summary.json", "status.json", "evaluation-test.json"):
        (damaged / name).write_text("{")
    same_name = make_run("elsewhere/young", steps=10, epochs=1)
    text = text_of(write_comparison([young, damaged, same_name], tmp_path / "page.html").read_text())
    assert "damaged: summary.json cannot be read" in text
    assert f"{young.parent.name}/young" in text  # two runs of one name are told apart by their paths


def test_no_result_at_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    page = write_comparison([tmp_path / "run"], tmp_path / "page.html")
    assert "run: no result on the val split" in text_of(page.read_text())


def test_hostile_names(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run('<script>"x" $y$', model="<b>model", source="<i>data")
    html = write_comparison([run, run], tmp_path / "page.html", title="<script>").read_text()
    assert "<script" not in html
    assert "<b>model" not in html
    assert "<i>data" not in html


def test_runs_of_one_name_get_as_many_folders_as_tell_them_apart(make_run: RunMaker, tmp_path: Path) -> None:
    runs = [make_run("a/seed0"), make_run("b/seed0"), make_run("a/seed1")]
    text = text_of(write_comparison(runs, tmp_path / "page.html").read_text())
    rows = text[: text.index("Training loss")]
    assert "a/seed0" in rows and "b/seed0" in rows
    assert str(runs[0]) not in text and "a/seed1" not in text


def test_many_runs(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run(steps=10, epochs=1, images=20)
    html = write_comparison([run] * 20, tmp_path / "page.html").read_text()
    assert html.count('class="chip"') == 20


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to compare"):
        write_comparison([], tmp_path / "page.html")
    with pytest.raises(UsageError, match="no such folder"):
        write_comparison([tmp_path / "gone"], tmp_path / "page.html")


def test_a_moving_average_that_lags_is_not_drawn(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run(steps=20, epochs=2)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "eval":
            row["top1"] = 0.10001 if row["weights"] == "ema" else 0.7
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = write_comparison([run], tmp_path / "page.html").read_text()
    chart = html[html.index("Validation top-1") : html.index("Training loss")]
    assert "70 %" in chart
    assert "10 %" not in chart

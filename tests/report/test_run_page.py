"""The report of one run: complete, self-contained, escaped, and never in the way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from isopatch.errors import UsageError
from isopatch.report.run_page import write_run_report

RunMaker = Callable[..., Path]


class Page(HTMLParser):
    """Parses a page: the tags must balance; collects attributes, texts and tag names."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def load_page(path: Path) -> Page:
    """Parse a page and check what holds for all: nothing is loaded, no script, balanced tags."""
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert value is not None
            assert value.startswith(("#", "./", "../", "data:image/png;base64,")), (tag, name, value)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    return page


def test_everything_is_there(make_run: RunMaker) -> None:
    run = make_run(skill=3.3)
    path = write_run_report(run)
    assert path == run / "report.html"
    page = load_page(path)
    evaluation = json.loads((run / "evaluation-test.json").read_text())
    for words in (
        "convmixer_256_8_ks5_p2 on digits", "finished", f"{100 * evaluation['top1']:.2f} %", "95 % interval",
        "360 pictures", "neither trained nor selected", "Selected weights: the moving average of step 580",
        "validation split was cut from train", "594 k", "150 M", "41.2 s", "2,113", "Loss", "Learning rate",
        "Images per second", "Validation top-1", "What is taken for what", "Most confident mistakes",
        "Per class", "optimizer.lr", "0.005", "0.001", "Xeon, 2 cores", "torch", "2.13.0",
        "train/7/broken.png",
        "damaged: image file is truncated", "cdcdcdcd", "brier", "macro recall",
    ):  # fmt: skip
        assert words.lower() in page.text.lower(), words
    assert page.tags.count("svg") == 7  # five charts, the calibration of two splits
    evaluations = [json.loads((run / f"evaluation-{split}.json").read_text()) for split in ("test", "val")]
    assert page.tags.count("img") == sum(len(found["mistakes"]) for found in evaluations)


def test_the_page_loads_nothing_from_anywhere(make_run: RunMaker) -> None:
    html = write_run_report(make_run()).read_text()
    assert not re.search(r"https?://|ftp://|\bsrc=\"//", html)
    assert "default-src 'none'" in html
    assert "<script" not in html


def test_confusion_counts_are_the_evaluations(make_run: RunMaker) -> None:
    run = make_run(classes=("cat", "dog", "eel"), skill=1.0, splits=("test",))
    page = load_page(write_run_report(run))
    matrix = json.loads((run / "evaluation-test.json").read_text())["confusion"]
    titles = [value for tag, name, value in page.attributes if tag == "td" and name == "title"]
    assert [int(str(title).split(": ")[1].split(" ")[0]) for title in titles] == [
        count for row in matrix for count in row
    ]
    assert any(str(title).startswith("cat taken for dog") for title in titles)


def test_many_classes_list_the_most_confused_pairs(make_run: RunMaker) -> None:
    names = tuple(f"species {index}" for index in range(120))
    run = make_run(classes=names, images=4000, skill=2.0, splits=("test",))
    page = load_page(write_run_report(run))
    assert "What is taken for what" not in page.text
    assert "Most frequent confusions" in page.text
    assert "All 120 classes" in page.text
    matrix = json.loads((run / "evaluation-test.json").read_text())["confusion"]
    worst = max(matrix[i][j] for i in range(120) for j in range(120) if i != j)
    first = page.text[page.text.index("share of the class") :].split("species")[2].split()
    assert int(first[1]) == worst


def test_hostile_names_are_text(make_run: RunMaker) -> None:
    names = ("<script>alert(1)</script>", '"><img src=x onerror=y>', "قطة", "a\u202eb", "{{ 7*7 }}", "$x_1$")
    run = make_run("<b>$run</b>", classes=names, skill=1.0, source="</title><script>x</script>")
    summary = json.loads((run / "summary.json").read_text())
    summary["selection"] = "<i>best</i>"
    summary["data"]["notes"] = ["<script>note</script>"]
    summary["data"]["skipped_files"] = {"train": [["<svg onload=x>.png", "\udcff<b>"]]}
    (run / "summary.json").write_text(json.dumps(summary))
    page = load_page(write_run_report(run))
    shown = (
        *names[:3],
        *names[4:],
        "a\\u202eb",
        "<script>note</script>",
        "<svg onload=x>.png",
        "<i>best</i>",
    )
    for words in shown:
        assert words in page.text, words
    assert "\u202e" not in page.text


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    "thumbnail",
    [
        "https://example.org/x.png", "data:text/html;base64,PHNjcmlwdD4=", "data:image/png;base64,AAAA", None,
        5, 'data:image/png;base64,AAAA" onload="x', "javascript:alert(1)",
    ],
)  # fmt: skip
def test_a_thumbnail_that_is_no_png_is_left_out(make_run: RunMaker, thumbnail: Any) -> None:
    run = make_run(skill=3.0, splits=("test",))
    path = run / "evaluation-test.json"
    evaluation = json.loads(path.read_text())
    evaluation["mistakes"][0]["thumbnail"] = thumbnail
    path.write_text(json.dumps(evaluation))
    page = load_page(write_run_report(run))
    assert page.tags.count("img") == len(evaluation["mistakes"]) - 1
    assert "no picture" in page.text


FILES = ("config.yaml", "env.json", "status.json", "summary.json", "metrics.jsonl", "evaluation-test.json")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe{", b"[1, 2]", b"null", b'{"a": [1,', b"{}"])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_said_and_harmless(
    make_run: RunMaker, name: str, content: bytes | None, request: pytest.FixtureRequest
) -> None:
    if name != "metrics.jsonl":
        request.getfixturevalue("no_plots")
    run = make_run(steps=20, epochs=2)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    text = load_page(write_run_report(run)).text
    optional = name == "evaluation-test.json" and content is None
    harmless = content == b"{}" or (name == "metrics.jsonl" and content == b"")
    assert optional or harmless or name in text


@pytest.mark.usefixtures("no_plots")
def test_wrong_types_anywhere_are_harmless(make_run: RunMaker) -> None:
    """Every value of every file is replaced by something else, one after the other."""
    run = make_run(steps=4, epochs=2, classes=("a", "b"), images=12, skill=0.0, splits=("test",))
    for name in ("summary.json", "status.json", "env.json", "evaluation-test.json"):
        document = json.loads((run / name).read_text())
        for key in document:
            for value in (None, "text", -1, [None], {"x": None}, [[1]], float("nan")):
                (run / name).write_text(json.dumps({**document, key: value}))
                load_page(write_run_report(run))
        (run / name).write_text(json.dumps(document))


def test_a_configuration_that_explodes_is_not_read(make_run: RunMaker) -> None:
    run = make_run(steps=2, epochs=1)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (run / "config.yaml").write_text("\n".join(lines))
    assert "config.yaml cannot be read" in load_page(write_run_report(run)).text


def test_a_run_that_was_stopped_early(make_run: RunMaker) -> None:
    run = make_run(steps=40, epochs=4)
    for name in ("summary.json", "evaluation-test.json", "evaluation-val.json"):
        (run / name).unlink()
    status = {"state": "stopped", "exit_code": 75, "step": 37, "total_steps": 40, "message": "time limit"}
    (run / "status.json").write_text(json.dumps(status))
    text = load_page(write_run_report(run)).text
    assert "stopped at step 37 of 40; it can be resumed. time limit" in text
    assert "No final result" in text
    assert "Last validation during training, at step 40" in text
    assert "No final evaluation was written" in text


def test_a_run_that_failed_before_its_first_step(make_run: RunMaker, tmp_path: Path) -> None:
    run = tmp_path / "young"
    run.mkdir()
    config = yaml.safe_load((make_run() / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    status = {"state": "failed", "exit_code": 1, "step": 0, "total_steps": 9, "message": "loss is not finite"}
    (run / "status.json").write_text(json.dumps(status))
    text = load_page(write_run_report(run)).text
    assert "failed at step 0 of 9. loss is not finite" in text
    assert "Not evaluated yet." in text
    assert "metrics.jsonl is missing" in text


def test_losses_that_are_not_finite_are_said(make_run: RunMaker) -> None:
    run = make_run(steps=10, epochs=1)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[3]["loss"], rows[4]["loss"], rows[5]["grad_norm"] = None, float("inf"), float("nan")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tra')
    text = load_page(write_run_report(run)).text
    assert "2 of 10 logged training losses are not finite" in text
    assert "1 damaged line" in text


def test_all_losses_nan_draws_no_loss_and_says_so(make_run: RunMaker) -> None:
    run = make_run(steps=6, epochs=1)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{**row, "loss": None} for row in rows if row["kind"] == "train"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    page = load_page(write_run_report(run))
    assert "6 of 6 logged training losses" in page.text
    assert "No validation was recorded" in page.text
    assert "Learning rate" in page.text


def test_one_row_of_metrics(make_run: RunMaker) -> None:
    run = make_run(steps=1, epochs=1)
    assert load_page(write_run_report(run)).tags.count("svg") == 7


def test_long_runs_make_small_pages(make_run: RunMaker) -> None:
    run = make_run(steps=200, epochs=1, images=40)
    line = (run / "metrics.jsonl").read_text().splitlines()[0]
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(100_000):
            file.write(line.replace('"epoch": 0.005,', f'"epoch": {step},') + "\n")
    assert write_run_report(run).stat().st_size < 400_000


def test_only_a_validation_split_is_called_optimistic(make_run: RunMaker) -> None:
    text = load_page(write_run_report(make_run(splits=("val",)))).text
    assert "top-1 on the validation split" in text
    assert "so this figure is optimistic" in text


def test_heads_of_a_distilled_model(make_run: RunMaker) -> None:
    run = make_run(splits=("test",))
    path = run / "evaluation-test.json"
    evaluation = json.loads(path.read_text())
    evaluation["heads"] = {
        "cls": {"top1": 0.9, "nll": 0.4}, "dist": {"top1": 0.8123, "nll": 0.6}, "agreement": 0.777,
    }  # fmt: skip
    path.write_text(json.dumps(evaluation))
    text = load_page(write_run_report(run)).text
    assert "81.23 %" in text
    assert "predict the same class for 77.70 %" in text


def test_what_is_no_run_is_refused(tmp_path: Path, make_run: RunMaker) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        write_run_report(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="give the folder of a run"):
        write_run_report(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write the report"):
        write_run_report(make_run(steps=2, epochs=1), tmp_path / "file" / "page.html")


def test_the_report_needs_no_torch(make_run: RunMaker) -> None:
    program = (
        "import sys; from pathlib import Path; from isopatch.report.run_page import write_run_report;"
        "import isopatch.report.compare_page; write_run_report(Path(sys.argv[1]));"
        "print(sorted({'torch', 'torchvision', 'timm', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(make_run(steps=2, epochs=1))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

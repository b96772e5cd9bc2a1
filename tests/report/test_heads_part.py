"""What the heads learned, on the page of a run and of several: there for distilled runs and only for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isopatch.report.compare_heads import signed_points
from isopatch.report.compare_page import write_comparison
from isopatch.report.heads_part import heads_view, rate_table
from isopatch.report.run_page import write_run_report
from isopatch.training.paired import disagreement, paired

RunMaker = Callable[..., Path]
TITLE = "What the heads learned"


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html[html.index("</style>") :]).split())


def made_up(images: int, seed: int, *, two_heads: bool = True) -> dict[str, Any]:
    """An evaluation's `distillation` as evaluate_taught writes it, of random decisions."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 10, images)

    def mostly(right: float) -> np.ndarray:
        return np.where(rng.random(images) < right, truth, rng.integers(0, 10, images))

    voters = {"truth": truth, "teacher": mostly(0.9)}
    voters |= (
        {"cls": mostly(0.8), "dist": mostly(0.85), "both": mostly(0.86)}
        if two_heads
        else {"student": mostly(0.8)}
    )
    whole = voters["both" if two_heads else "student"]

    def figures(decisions: np.ndarray) -> dict[str, Any]:
        right = int((decisions == truth).sum())
        return {"top1": right / images, "top5": 0.99, "nll": 0.4321, "num_correct": right}

    told: dict[str, Any] = {}
    if two_heads:
        told["heads"] = {"cls": figures(voters["cls"]), "dist": figures(voters["dist"])}
        told["heads"] |= {"mean_of_logits": figures(whole), "mean_of_probabilities": figures(whole)}
        told["token_cosine"] = {
            "learned": 0.06, "by_depth": [0.11, 0.4 + seed / 100, 0.7, 0.93], "after_norm": 0.91,
        }  # fmt: skip
    told["teacher"] = {
        "source": "runs/<teacher>", **figures(voters["teacher"]),
        "compared": paired(whole, voters["teacher"], truth).to_json(),
    }  # fmt: skip
    told["disagreement"] = disagreement(voters)
    return told


def distil(run: Path, told: dict[str, Any], *, split: str = "test", cached: bool = True) -> Path:
    """Turn a made-up run into a distilled one."""
    evaluation = json.loads((run / f"evaluation-{split}.json").read_text())
    evaluation["distillation"] = told
    (run / f"evaluation-{split}.json").write_text(json.dumps(evaluation))
    summary = json.loads((run / "summary.json").read_text())
    summary["distillation"] = {"pictures_asked": 1200, "pictures_remembered": 36000, "teacher_seconds": 8.24}
    if cached:
        summary["distillation"]["cache"] = {
            "folder": "/secret/cache", "bytes_per_picture": 40.13, "teacher_seconds_per_picture": 0.002,
            "coding": {"num_classes": 10, "kept": 10, "temperature": None},
            "teacher_seconds_saved": 72.0, "damaged_records": 0,
        }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_the_section_of_a_distilled_run(make_run: RunMaker) -> None:
    told = made_up(360, 0)
    html = write_run_report(distil(make_run(), told)).read_text()
    text = text_of(html)
    part = text[text.index(TITLE) :]
    for name in ("cls", "dist", "mean_of_logits"):
        assert f"{100 * told['heads'][name]['top1']:.2f} %" in part
    for words in (
        "class head", "distillation head", "both, mean of logits", "both, mean of probabilities", "teacher",
        "Cosine of the two tokens", "DeiT reports 0.06", "0.4321", "Pictures decided differently",
        "1,200", "36,000", "8.2 s (20 % of the training)", "1 min 12 s", "10 of 10 logits", "40.1",
    ):  # fmt: skip
        assert words in part, words
    compared = told["teacher"]["compared"]
    assert f"{100 * abs(compared['difference']):.2f} points" in part
    assert f"student right {compared['both_right']} {compared['only_student']} " in part
    assert f"student wrong {compared['only_other']} {compared['both_wrong']} " in part
    assert "/secret" not in html.split("</style>")[1]
    assert "The result above averages their logits" not in text  # the short table it replaces


@pytest.mark.usefixtures("no_plots")
def test_what_teaching_cost_is_told_once(make_run: RunMaker) -> None:
    run = distil(distil(make_run(), made_up(360, 0)), made_up(360, 1), split="val")
    text = text_of(write_run_report(run).read_text())
    assert text.count(TITLE) == 2
    assert text.count("What teaching cost") == 1


def test_other_runs_have_no_such_section(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run()
    for text in (write_run_report(run).read_text(), write_comparison([run], tmp_path / "x.html").read_text()):
        assert "learned" not in text_of(text)
        assert "teacher" not in text_of(text).split("Configuration")[0]


@pytest.mark.usefixtures("no_plots")
def test_a_student_with_one_head_has_no_token_part(make_run: RunMaker) -> None:
    run = distil(make_run(), made_up(360, 1, two_heads=False), cached=False)
    text = text_of(write_run_report(run).read_text())
    assert "What the student learned" in text
    assert TITLE not in text
    assert "Cosine" not in text
    assert "distillation head" not in text
    assert "from the cache" not in text


def test_the_table_shows_the_rates_of_the_decisions() -> None:
    told = made_up(200, 3)
    table = rate_table(told)
    rates = told["disagreement"]["rates"]
    shown = [[cell.rate for cell in cells] for _, cells in table]
    assert shown == [[f"{100 * rate:.1f}" for rate in row] for row in rates]
    largest = max(cell.strength for _, cells in table for cell in cells)
    assert largest == 1.0
    assert all(cells[row].itself and cells[row].strength == 0 for row, (_, cells) in enumerate(table))


@pytest.mark.parametrize(
    "damage",
    [
        {"disagreement": {"voters": ["a"], "rates": [[0, 1]]}},
        {"disagreement": {"voters": "ab", "rates": [[0, 1], [1, 0]]}},
        {"disagreement": {"voters": ["a", "b"], "rates": [[0, float("nan")], [2, 0]]}},
        {"disagreement": [1]},
        {"heads": {"cls": 5, "dist": {"top1": "x"}, "mean_of_logits": {"top1": 7}}},
        {"token_cosine": {"by_depth": ["x", None], "learned": {}}},
        {"token_cosine": {"by_depth": 3}},
        {"teacher": {"compared": {"both_right": None}}},
        {"teacher": 3},
    ],
)
def test_damaged_parts_are_left_out(damage: dict[str, Any]) -> None:
    view = heads_view({"num_images": 100, "distillation": {"x": 1, **damage}}, {"distillation": {"cache": 3}})
    assert view is not None
    assert view.rates == []
    assert view.cosine is None
    assert view.teacher is None


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (9, 4, "beats its teacher by 5.00 points"),
        (4, 9, "stays 5.00 points behind"),
        (4, 4, "exactly as good"),
    ],
)
def test_the_verdict(ours: int, theirs: int, words: str) -> None:
    compared = {
        "both_right": 50, "only_student": ours, "only_other": theirs, "both_wrong": 100 - 50 - ours - theirs,
        "p_value": 0.25,
    }  # fmt: skip
    view = heads_view({"num_images": 100, "distillation": {"teacher": {"compared": compared}}}, {})
    assert view is not None
    assert view.teacher is not None
    assert words in view.teacher.verdict
    assert "0.250" in view.teacher.certainty


def test_gains_have_a_sign() -> None:
    assert [signed_points(gain) for gain in (0.0123, -0.5, 0.0, -0.0001)] == [
        "+1.2",
        "\u221250.0",
        "0.0",
        "0.0",
    ]


def test_runs_side_by_side(make_run: RunMaker, tmp_path: Path) -> None:
    plain = make_run("plain", skill=2.0)
    first = distil(make_run("first", skill=2.5), made_up(360, 4))
    second = distil(make_run("second", skill=3.0), made_up(360, 5))
    html = write_comparison([first, plain, second], tmp_path / "page.html").read_text()
    text = text_of(html)
    part = text[text.index(TITLE) : text.index("What was set differently")]
    recalls = {
        run.name: [
            row["recall"] for row in json.loads((run / "evaluation-test.json").read_text())["per_class"]
        ]
        for run in (plain, first, second)
    }
    assert "points above the same model without a teacher" in part
    assert "first above plain ; second above plain" in part
    for seed, run in ((4, first), (5, second)):
        told = made_up(360, seed)
        for name in ("cls", "dist"):
            assert f"{100 * told['heads'][name]['top1']:.2f} %" in part
        table = told["disagreement"]
        place = {voter: index for index, voter in enumerate(table["voters"])}
        for pair in (("both", "teacher"), ("cls", "dist")):
            rate = table["rates"][place[pair[0]]][place[pair[1]]]
            assert f"{100 * rate:.1f} %" in part
        for mine, base in zip(recalls[run.name], recalls["plain"], strict=True):
            assert signed_points(mine - base) in part
    (chart,) = re.findall(r'<svg[^>]*aria-label="Cosine of class token[^>]*>.*?</svg>', html, flags=re.DOTALL)
    curves = re.findall(r'id="line2d_\d+">\s*<path d="([^"]*)"', chart)
    assert len([path for path in curves if path.count("L") == 3]) == 2  # four depths each


@pytest.mark.usefixtures("no_plots")
def test_gains_need_the_same_pictures(make_run: RunMaker, tmp_path: Path) -> None:
    taught = distil(make_run("taught", skill=3.0), made_up(360, 4))
    others = [make_run("seed", seed=3), make_run("data")]  # other labels, another training set
    summary = json.loads((others[1] / "summary.json").read_text())
    summary["data"]["fingerprint"] = "ef" * 16
    (others[1] / "summary.json").write_text(json.dumps(summary))
    for other in others:
        text = text_of(write_comparison([taught, other], tmp_path / "page.html").read_text())
        assert TITLE in text
        assert "points above" not in text
    both = [taught, make_run("same", skill=1.0)]
    assert "taught above same" in text_of(write_comparison(both, tmp_path / "page.html").read_text())


@pytest.mark.usefixtures("no_plots")
def test_gains_are_above_the_same_model(make_run: RunMaker, tmp_path: Path) -> None:
    taught, same, other = distil(make_run("taught"), made_up(360, 4)), make_run("same"), make_run("other")
    for run, name in ((taught, "deit"), (same, "deit"), (other, "convmixer")):
        summary = json.loads((run / "summary.json").read_text())
        summary["model"] = {"name": name, "arguments": {"dim": 8, "distilled": run is taught}}
        (run / "summary.json").write_text(json.dumps(summary))
    alone = text_of(write_comparison([other, taught], tmp_path / "page.html").read_text())
    assert "points above" not in alone
    text = text_of(write_comparison([other, taught, same], tmp_path / "page.html").read_text())
    assert "taught above same" in text

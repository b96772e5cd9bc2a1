"""Rows of the benchmarks name models that exist, floors decide, the papers' table comes from its result."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isopatch.models.spec import make_spec

ROOT = Path(__file__).parents[2]


def module(name: str) -> Any:
    return importlib.import_module(name)


def test_every_row_is_a_model_that_can_be_built() -> None:
    inference, training = (module(f"benchmarks.speed_{mode}").ROWS for mode in ("inference", "training"))
    names = [row.name for row in (*inference, *training)]
    assert len(set(names)) == len(names)
    for row in (*inference, *training):
        size = {} if row.image_size is None else {"image_size": row.image_size}
        make_spec(row.model, {**row.arguments, **size})


def test_floors_decide() -> None:
    speed = module("benchmarks.speed")
    row = speed.Row("x", "vit_tiny", "infer", 8, 1.0, 2.0, timm_bf16=1.3)
    assert speed.holds(row, 1.0, 1.3)
    assert not speed.holds(row, 0.99, 1.4) and not speed.holds(row, 1.1, 1.2)
    assert not speed.holds(row, None, 1.4)  # no peer was measured: nothing was shown
    assert speed.holds(speed.Row("x", "vit_tiny", "infer", 1, None, None), None, None)
    assert "at least 1 times the best peer, 1.3 times timm eager bf16 (aim 2)" in speed.claim(row)


def test_a_row_is_measured_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = module("benchmarks.speed")
    sizes = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 4, "image_size": 16, "num_classes": 5}
    row = speed.Row("tiny", "convmixer", "infer", 2, 1e9, 2e9, arguments=sizes)
    out = tmp_path / "tiny.json"
    options = ["tiny", "--rounds", "1", "--threads", "1", "--peers", "timm", "--no-memory", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/speed_inference.py", *options])
    assert speed.main("Doc.", [row]) == 1  # nobody is 1e9 times as fast
    result = json.loads(out.read_text())
    assert result["name"] == "speed-tiny" and not result["passed"]
    assert result["figure"]["floor"] == 1e9 and result["figure"]["ratio_to_best_peer"] > 0
    assert result["bench"]["models"][0]["contenders"]


def fastest(contender: str, rate: float) -> dict[str, object]:
    return {
        "contender": contender,
        "best": True,
        "precision": "bf16",
        "threads": 2,
        "images_per_second": rate,
        "share_of_matrix_rate": 0.5,
    }


RESULT = {
    "batch": 8,
    "n": 5,
    "hardware": "a machine",
    "versions": {"torch": "2.13.0"},
    "measured": "1 of 18 models",
    "rows": [
        {
            "label": "DeiT-S at patch 7", "image_size": 224, "parameters": 22_000_000, "macs": 30_000_000_000,
            "top1": None, "source": None, "images_per_second": {"plain": 10.0, "native": 25.0},
            "settings": {"a": fastest("isopatch-plain", 10.0), "b": fastest("isopatch-native", 25.0)},
        },
        {
            "label": "ResNet-50", "image_size": 224, "parameters": 25_557_032, "macs": 4_089_184_256,
            "top1": 76.2, "source": "DeiT, table 5", "images_per_second": {"plain": 40.0},
            "settings": {"plain": fastest("isopatch-plain", 40.0)},
        },
    ],
}  # fmt: skip


def test_the_papers_table_is_made_from_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("papers_table_tool", ROOT / "tools" / "papers_table.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "SOURCE", tmp_path / "papers_table.json")
    monkeypatch.setattr(tool, "TARGET", tmp_path / "papers_table.md")
    monkeypatch.setattr(tool, "PICTURE", tmp_path / "papers_table.png")
    monkeypatch.setattr(sys, "argv", ["papers_table.py", "--check"])
    assert tool.main() == 0  # nothing measured, no page
    tool.SOURCE.write_text(json.dumps(RESULT))
    assert tool.main() == 1  # a result without its page
    monkeypatch.setattr(sys, "argv", ["papers_table.py"])
    assert tool.main() == 0
    assert tool.PICTURE.read_bytes().startswith(b"\x89PNG")
    text = tool.TARGET.read_text()
    assert "| DeiT-S at patch 7 | 224 | 22,000,000 | 30 | - | - | 10 | 25 | 2.50 |" in text
    assert "| ResNet-50 | 224 | 25,557,032 | 4.09 | 76.2 | DeiT, table 5 | 40 | - | - |" in text
    monkeypatch.setattr(sys, "argv", ["papers_table.py", "--check"])
    assert tool.main() == 0
    tool.TARGET.write_text(text.replace("2.50", "9.99"))
    assert tool.main() == 1


def test_the_page_in_results_is_up_to_date() -> None:
    check = [sys.executable, str(ROOT / "tools" / "papers_table.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run python tools/papers_table.py"


def test_a_table_is_not_continued_on_other_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, out = module("benchmarks.papers_table"), tmp_path / "table.json"
    out.write_text(json.dumps(RESULT))
    monkeypatch.setattr(sys, "argv", ["benchmarks/papers_table.py", "DeiT-S", "--out", str(out)])
    with pytest.raises(SystemExit, match="measured on a machine: a table of this machine's takes --out FILE"):
        table.main()


def test_the_authors_remark_is_answered_from_the_rows() -> None:
    table = module("benchmarks.papers_table")
    rows = {
        "ConvMixer-1536/20": {"images_per_second": {"plain": 2.0, "native": 10.0}},
        "DeiT-S at patch 7": {"images_per_second": {"plain": 8.0}},
    }
    assert table.remark(rows).endswith(
        "DeiT-S at patch 7 runs at plain 4.00 times the speed of ConvMixer-1536/20"
    )
    assert len({line.label for line in table.LINES}) == len(table.LINES) == 18

"""The run folder: lock, status, metrics."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from isopatch.errors import UsageError
from isopatch.report.sizes_plot import default_file
from isopatch.training.runfolder import RunFolder, json_safe, next_run_path


def hold_in_child(path):
    code = f"""
    import sys, time
    from pathlib import Path
    from isopatch.training.runfolder import RunFolder
    with RunFolder(Path({str(path)!r})).hold():
        print("held", flush=True)
        time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "held"
    return child


def test_a_second_process_is_refused_and_a_killed_ones_lock_does_not_block(tmp_path):
    child = hold_in_child(tmp_path / "run")
    try:
        with pytest.raises(UsageError, match="another process is using"), RunFolder(tmp_path / "run").hold():
            pass
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with RunFolder(tmp_path / "run").hold():
        pass


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append_metrics({"kind": "train", "step": step, "loss": math.nan})
    with folder.metrics_file.open("a") as file:
        file.write('{"kind": "train", "st')
    folder.cut_metrics(2)
    rows = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["loss"] is None


def test_clear_refuses_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a run folder"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "thesis.tex").exists()


def test_best_is_swapped_and_the_former_removed(tmp_path):
    folder = RunFolder(tmp_path)
    for version in ("1", "2"):
        (tmp_path / f".best-{version}").mkdir()
        folder.swap_best(version)
    assert os.readlink(tmp_path / "best") == ".best-2"
    assert not (tmp_path / ".best-1").exists()


def test_next_run_path_counts_from_one(tmp_path):
    assert next_run_path(tmp_path, "a").name == "a-1"
    (tmp_path / "a-1").mkdir()
    assert next_run_path(tmp_path, "a").name == "a-2"


def test_json_safe_has_no_bare_nan():
    assert json_safe({"a": [1.0, math.inf, {"b": math.nan}]}) == {"a": [1.0, None, {"b": None}]}


def test_the_plot_that_eval_puts_into_a_run_does_not_keep_it_from_being_replaced(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    for split in ("train", "val", "test"):
        default_file({"checkpoint": str(tmp_path), "split": split}).write_bytes(b"a plot")
    RunFolder(tmp_path).require_only_a_run()
    (tmp_path / "plot.png").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=r"1 things that no run wrote \(plot\.png\)"):
        RunFolder(tmp_path).require_only_a_run()

"""Studies with real trainings, through the command line: results, table, failures, SLURM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from isopatch.cli import main
from isopatch.errors import IsopatchError, UsageError
from isopatch.study import slurm
from isopatch.study.report import read_document
from isopatch.study.rows import CLOCK, digest, table, write_results
from isopatch.study.slurm import slurm_settings

SIZES = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
STUDY = {
    "question": "Does it help to start from another run's weights, or to be taught by it?",
    "base": {
        "data": "digits",
        "recipe": "small",
        "model": {"name": "convmixer", **SIZES},
        "batch_size": 128,
        "threads": 1,
        "precision": "fp32",
    },
    "factors": {
        "start": {
            "fresh": {},
            "warm": {"weights": "@low"},
            "taught": {"teacher": "@low", "distillation": "soft"},
        },
        "data_fraction": [0.5],
    },
    "seeds": 1,
    "equal": {"images": 640},
    "probes": ["knn", "few-shot"],
    "before": {
        "low": {"model": {"name": "convmixer", **SIZES}, "epochs": 2, "data_fraction": 0.3, "recipe": "small"}
    },
}
Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def isopatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in an empty folder; returns (exit code, its JSON, messages)."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))

    def command(*arguments: str) -> tuple[int, Any, str]:
        code = main([*arguments, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return command


def test_a_study_from_its_file_to_its_table(isopatch: Command) -> None:
    code, planned, errors = isopatch("study", "plan", "mine.yaml", "--no-measure")
    assert code == 0 and [run["id"] for run in planned["runs"]] == [
        "before-low-seed0",
        "start-fresh_data-fraction-0.5-seed0",
        "start-warm_data-fraction-0.5-seed0",
        "start-taught_data-fraction-0.5-seed0",
    ], errors
    assert not Path("studies").exists(), "a plan alone writes nothing"

    code, stopped, _ = isopatch("study", "run", "mine.yaml", "--in-process", "--max-minutes", "1e-9")
    assert (code, stopped["done"], stopped["planned"]) == (75, 0, 4)

    code, ended, errors = isopatch("study", "run", "mine.yaml", "--in-process")
    assert code == 0, errors
    assert (ended["planned"], ended["done"], ended["failed"], ended["running"]) == (4, 4, 0, 0)
    folder = Path("studies/mine")
    rows = {row["factor.start"]: row for row in pq.read_table(folder / "results.parquet").to_pylist()}
    assert set(rows) == {"fresh", "warm", "taught"}, "what comes first is no row"
    fresh, warm, taught = (rows[name] for name in ("fresh", "warm", "taught"))
    before = json.loads((folder / "runs" / "before-low-seed0" / "summary.json").read_text())
    for row in rows.values():
        summary = json.loads((folder / "runs" / row["run"] / "summary.json").read_text())
        assert row["top1"] == summary["final"]["test"]["top1"] and row["split"] == "test"
        assert row["val_top1"] == summary["final"]["val"]["top1"]
        assert row["training_flops"] == 6 * row["macs"] * 640 and row["images_seen"] == 640
        assert row["factor.data_fraction"] == "0.5" and row["train_images"] == summary["data"]["train"]
        assert row["weights_sha256"] == summary["weights_sha256"]
        probed = {key for key in row if key.startswith("probe.")}
        assert {"probe.knn.k-10", "probe.few-shot.vit.5-shot"} <= probed
        assert all(
            0 < row[key] <= 1 and key.startswith(("probe.knn.k-", "probe.few-shot.")) for key in probed
        )
    assert fresh["before_training_flops"] == 0 and fresh["before_seconds"] == 0.0
    assert warm["before_training_flops"] == taught["before_training_flops"]
    assert warm["before_training_flops"] == 6 * before["macs"] * before["images_seen"] > 0
    for row, begun in ((warm, "weights: /"), (taught, "teacher: /")):
        config = (folder / "runs" / row["run"] / "config.yaml").read_text()
        assert any(begun in line and line.endswith("before-low-seed0") for line in config.splitlines())
    assert len({row["weights_sha256"] for row in rows.values()}) == 3

    results = table(folder)
    assert digest(results) == digest(pq.read_table(folder / "results.parquet"))
    slower = results.to_pylist()
    for row in slower:
        row.update(dict.fromkeys(CLOCK, 1e9))
    other = results.from_pylist(slower, schema=results.schema)
    assert digest(other) == digest(results)
    worse = results.from_pylist([{**row, "top1": 0.0} for row in slower], schema=results.schema)
    assert digest(worse) != digest(results), "control: the digest sees a result"

    page = json.dumps(read_document(folder)["analysis"]["notes"])
    assert "teacher's own work is neither" in page and "study.yaml is not" not in page
    (folder / "study.yaml").write_text((folder / "study.yaml").read_text() + "paper: mine\n")
    assert "study.yaml is not what the runs were begun with" in json.dumps(
        read_document(folder)["analysis"]["notes"]
    )

    (folder / "results.parquet").unlink()  # as a driver that was killed leaves it
    code, written, errors = isopatch("study", "report", str(folder))
    assert code == 0 and Path(written["report"]).is_file(), errors
    assert digest(pq.read_table(folder / "results.parquet")) == digest(results)

    claims = sorted(path.name for path in (folder / "claims").iterdir())
    again = isopatch("study", "run", str(folder), "--in-process")
    assert again[0] == 0 and sorted(path.name for path in (folder / "claims").iterdir()) == claims
    code, status, _ = isopatch("study", "status", str(folder))
    assert code == 0 and {key: status[key] for key in ("planned", "done", "failed", "running")} == {
        "planned": 4,
        "done": 4,
        "failed": 0,
        "running": 0,
    }
    path = folder / "runs" / fresh["run"] / "summary.json"
    path.write_text(path.read_text().replace('"steps": 5', '"steps": 6'))
    with pytest.raises(IsopatchError, match="steps 6, planned were 5: not this study's run"):
        write_results(folder)


def test_a_failing_run_is_recorded_with_its_own_words(isopatch: Command) -> None:
    broken = {**STUDY, "factors": {"optimizer.lr": [1e-3, 1e30]}, "before": {}}
    Path("mine.yaml").write_text(yaml.safe_dump(broken, sort_keys=False))
    code, ended, _ = isopatch("study", "run", "mine.yaml", "--in-process")
    assert (code, ended["done"], ended["failed"]) == (1, 1, 1)
    error = next(run["error"] for run in ended["runs"] if run["state"] == "failed")
    assert "step" in error and not error.startswith("isopatch")
    assert pq.read_table("studies/mine/results.parquet").num_rows == 1
    assert isopatch("study", "run", "mine.yaml", "--in-process")[1]["failed"] == 1


def test_a_study_that_was_planned_is_changed_run_and_planned_again(isopatch: Command) -> None:
    assert isopatch("study", "plan", "mine.yaml", "--out", "own", "--no-measure")[0] == 0
    folder = Path("own")
    declared = yaml.safe_load((folder / "study.yaml").read_text())
    declared["equal"] = {"images": 1280}
    (folder / "study.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    code, ended, errors = isopatch("study", "run", "own", "--in-process")
    assert code == 0 and (ended["folder"], ended["done"]) == ("own", 4), errors
    run = "start-warm_data-fraction-0.5-seed0"
    assert json.loads((folder / "runs" / run / "summary.json").read_text())["steps"] == 10

    claims = sorted(path.name for path in (folder / "claims").iterdir())
    (folder / "plan.json").write_text("{")
    code, _, errors = isopatch("study", "run", "own", "--in-process")
    assert code == 1 and "plan.json: damaged; delete it, and 'isopatch study run own' plans again" in errors
    (folder / "plan.json").unlink()
    code, ended, errors = isopatch("study", "run", "own", "--in-process")
    assert code == 0 and (ended["folder"], ended["done"]) == ("own", 4), errors
    assert sorted(path.name for path in (folder / "claims").iterdir()) == claims, "nothing ran again"
    assert not Path("studies").exists()

    declared["equal"] = {"images": 640}
    (folder / "study.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    code, _, errors = isopatch("study", "run", "own", "--in-process")
    assert code == 2 and "steps was 10, now 5" in errors, "runs have begun"
    (folder / "plan.json").unlink()
    code, _, errors = isopatch("study", "run", "own", "--in-process")
    assert code == 2 and "steps was 10, now 5" in errors, "the runs say so too"

    path = folder / "runs" / run / "summary.json"
    declared["equal"] = {"images": 1280}
    (folder / "study.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    whole = json.loads(path.read_text())
    path.write_text("{}")
    code, ended, _ = isopatch("study", "run", "own", "--in-process")
    assert (code, ended["done"], ended["failed"]) == (1, 3, 1)
    (path.parent / "status.json").unlink()
    code, ended, errors = isopatch("study", "run", "own", "--in-process")
    assert (code, ended["done"], ended["failed"]) == (0, 4, 0), errors
    again = json.loads(path.read_text())
    assert (again["final"], again["weights_sha256"]) == (whole["final"], whole["weights_sha256"])


def test_runs_at_a_time_share_the_cores_of_a_study_that_was_only_planned(
    isopatch: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from isopatch.training import hardware

    base = {key: value for key, value in STUDY["base"].items() if key != "threads"}  # type: ignore[attr-defined]
    small = {"question": "?", "base": base, "factors": {}, "seeds": 2, "equal": {"images": 640}}
    Path("mine.yaml").write_text(yaml.safe_dump(small))
    monkeypatch.setattr(hardware, "available_cores", lambda: 8)

    def ran(folder: str, parallel: int) -> list[Any]:
        arguments = ("mine.yaml", "--out", folder, "--max-minutes", "1e-9", f"--parallel={parallel}")
        code, _, errors = isopatch("study", "run", *arguments)
        assert code == 75, errors
        plan = json.loads((Path(folder) / "plan.json").read_text())
        return [plan["threads"], *(run["config"]["threads"] for run in plan["runs"])]

    assert isopatch("study", "plan", "mine.yaml", "--no-measure", "--out", "planned")[0] == 0
    assert ran("planned", 4) == [2, 2, 2]
    assert ran("planned", 2) == [2, 2, 2], "it is kept"
    assert ran("alone", 1) == [None] * 3
    assert ran("alone", 2) == [4] * 3, "no run has begun"
    assert ran("begun", 1) == [None] * 3
    (Path("begun") / "claims").mkdir()
    (Path("begun") / "claims" / "base-seed0.1.json").write_text("{}")
    assert "so each run takes all cores" not in caplog.text
    assert ran("begun", 2) == [None] * 3
    assert (
        "--parallel 2: this study was begun without a number of threads, so each run takes all" in caplog.text
    )


def test_words_for_people(isopatch: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "list"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "kernel" in listed["kernel-size"].removeprefix("kernel-size") and len(listed) >= 11
    assert main(["study", "plan", "kernel-size", "--small", "--no-measure", "--out", "begun"]) == 0
    told = capsys.readouterr().out
    assert "held equal: " in told and "kernel-size-3" in told
    assert main(["study", "status", "begun"]) == 0
    assert " 0 running, 0 failed, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "mine.yaml", "--max-minutes", "0"], "--max-minutes 0: give a time above 0"),
        (["run", "mine.yaml", "--in-process", "--parallel", "2"], "--in-process does one run at a time"),
        (["run", "mine.yam"], "mine.yam: neither a file nor a built-in study"),
        (["status", "."], "no plan.json here"),
        (["report", "."], "no plan.json here"),
        (["plan", "mine.yaml", "--smal"], "--smal: unknown option"),
    ],
)
def test_requests_that_cannot_work_are_refused(isopatch: Command, arguments: list[str], line: str) -> None:
    code, _, errors = isopatch("study", *arguments)
    assert code == 2 and line in errors


def test_the_small_form_of_a_study_has_a_folder_of_its_own(isopatch: Command) -> None:
    for small in ([], ["--small"]):
        code, ended, errors = isopatch(
            "study", "run", "kernel-size", "--data=digits", *small, "--in-process", "--max-minutes", "1e-9"
        )
        assert code == 75, errors
        assert Path(ended["folder"]) == Path("studies/kernel-size" + "-small" * bool(small))


def test_more_seeds_add_runs_to_a_study(isopatch: Command) -> None:
    planned = []
    for seeds in ("2", "3"):
        code, ended, errors = isopatch(
            *("study", "run", "kernel-size", "--small", "--seeds", seeds, "--in-process"),
            *("--max-minutes", "1e-9"),
        )
        assert code == 75, errors
        _, told, _ = isopatch("study", "status", ended["folder"])
        planned.append({run["run"] for run in told["runs"]})
    assert planned[0] < planned[1]
    assert {name.rpartition("-seed")[2] for name in planned[1] - planned[0]} == {"2"}


def test_slurm_settings_are_read_and_unknown_ones_refused() -> None:
    read = slurm_settings("partition=gpu, timeout_min=240,workers=3,cluster=local")
    assert read == {"slurm_partition": "gpu", "timeout_min": 240, "workers": 3, "cluster": "local"}
    with pytest.raises(UsageError, match=r"partitoin=gpu: unknown key \(did you mean 'partition'\?\)"):
        slurm_settings("partitoin=gpu")
    with pytest.raises(UsageError, match="give KEY=VALUE"):
        slurm_settings("gpu")
    with pytest.raises(UsageError, match="workers=0"):
        slurm_settings("workers=0")


def test_without_submitit_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"pip install 'isopatch\[slurm\]'"):
        slurm.submit(tmp_path, {}, [], runs=1)


def test_no_slurm_here_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(IsopatchError, match="cluster=local runs the drivers on this machine"):
        slurm.submit(tmp_path, {"cluster": "slurm"}, [], runs=1)


@pytest.mark.filterwarnings("ignore")  # submitit's own
def test_drivers_are_queued_each_with_the_whole_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import submitit

    asked: list[Any] = []
    monkeypatch.setattr(
        submitit.AutoExecutor, "submit", lambda _self, call: asked.append(call) or submitit.helpers
    )
    monkeypatch.setattr(submitit.helpers, "job_id", "7", raising=False)
    ids = slurm.submit(tmp_path / "s", {"cluster": "local", "workers": 3}, ["/s", "--parallel=1"], runs=2)
    assert ids == ["7", "7"], "no more drivers than runs"
    assert asked[0].command[-4:] == ["study", "run", "/s", "--parallel=1"]
    again = asked[0].checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)


def test_a_driver_job_fails_only_where_the_driver_does() -> None:
    def ends(code: int) -> list[str]:
        return [sys.executable, "-c", f"raise SystemExit({code})"]

    assert [slurm.DriverJob(ends(code))() for code in (0, 1, 75)] == [0, 1, 75]
    with pytest.raises(RuntimeError, match="exit code 2"):
        slurm.DriverJob(ends(2))()


@pytest.mark.filterwarnings("ignore")
def test_before_a_time_limit_a_driver_job_has_everything_saved(tmp_path: Path) -> None:
    """As submitit does it: its handler runs while the job waits; the warning goes to every process."""
    driver = (
        "import pathlib, signal, sys, time\n"
        "def save(*_): time.sleep(0.3); pathlib.Path('saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGUSR1, save)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    job = (
        "import os, pathlib, signal, sys, threading, time\n"
        "from isopatch.study.slurm import DriverJob\n"
        f"job = DriverJob([sys.executable, '-c', {driver!r}])\n"
        "def warned(*_):\n"
        "    job.checkpoint()\n"
        "    print(pathlib.Path('saved').exists(), flush=True)\n"
        "signal.signal(signal.SIGUSR2, warned)\n"
        "def slurm():\n"
        "    while not pathlib.Path('ready').exists(): time.sleep(0.01)\n"
        "    os.killpg(0, signal.SIGUSR2)\n"
        "threading.Thread(target=slurm, daemon=True).start()\n"
        "print(job())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", job],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["True", "75"], done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_queued_drivers_do_a_study(isopatch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through submitit's local executor: processes in place of a cluster."""
    import time

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    code, queued, errors = isopatch("study", "run", "mine.yaml", "--slurm", "cluster=local,workers=2")
    assert code == 0 and len(queued["jobs"]) == 2, errors
    deadline = time.monotonic() + 400
    while isopatch("study", "status", "studies/mine")[1]["done"] < 4:
        assert time.monotonic() < deadline
        time.sleep(1)
    assert not (Path("studies/mine") / "failures").exists()

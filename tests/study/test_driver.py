"""Drivers: nothing finished runs again, nothing is lost or doubled, whatever is killed, however many work."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.study.stand_in import SUMMARY

from isopatch.errors import UsageError
from isopatch.study import jobs
from isopatch.study.claims import Claims
from isopatch.study.driver import chosen
from isopatch.study.folder import begin, open_plan
from isopatch.study.planned import Plan, PlannedRun
from isopatch.study.rows import probe_figures, table
from isopatch.study.schema import Equal, Study
from isopatch.study.state import read_failure, status
from isopatch.training.config import RunConfig

STAND_IN = Path(__file__).parent / "stand_in.py"
RUNS = 6
Start = Callable[..., subprocess.Popen[str]]


def planned(name: str, seed: int, needs: dict[str, str] | None = None) -> PlannedRun:
    config = RunConfig.model_validate({"model": {"name": "vit"}, "seed": seed}).model_dump(mode="json")
    return PlannedRun(
        id=f"{name}-seed{seed}",
        cell=name,
        levels={},
        seed=seed,
        config=config,
        needs=needs or {},
        before=name.startswith("before-"),
        model="vit",
        parameters=1,
        macs=1,
        steps=12,
        images=12,
        train_images=1,
        data_fingerprint="x",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of six runs that has begun: one of them waits for another that comes first."""
    study = Study(name="try", question="?", equal=Equal(epochs=1))
    first = planned("before-first", 0)
    waits = planned("waits", 0, {"first": first.id})
    runs = (first, waits, *(planned("free", seed) for seed in range(RUNS - 2)))
    begin(tmp_path / "study", study, lambda _: Plan(study, runs))
    return tmp_path / "study"


def test_probes_are_part_of_a_run_and_are_done_once(tmp_path: Path, start: Start) -> None:
    folder = tmp_path / "study"
    study = Study(name="try", question="?", equal=Equal(epochs=1), probes=["few-shot", "knn"])
    runs = (planned("before-first", 0), planned("free", 0), planned("free", 1))
    plan = begin(folder, study, lambda _: Plan(study, runs))
    (folder / "fails").mkdir()
    (folder / "fails" / "probe-free-seed1").touch()
    assert finish(start(folder))[0] == 1
    assert counts(folder) == (3, 2, 1, 0)
    assert read_failure(folder, "free-seed1")["job"] == "probe few-shot"  # type: ignore[index]
    (folder / "fails" / "probe-free-seed1").unlink()
    assert finish(start(folder, retry_failed=True)) == (0, ["free-seed1"])
    seen = journal(folder)
    assert [seen["end", run.id] for run in runs] == [1, 1, 1], "no training again for a probe"
    assert [seen["probe", run.id] for run in runs] == [0, 2, 3], "what comes first is not probed"
    assert sorted(path.name for path in (folder / "probes").iterdir()) == [
        f"free-seed{seed}-{probe}.json" for seed in (0, 1) for probe in ("few-shot", "knn")
    ]
    assert probe_figures(folder, plan, runs[1]) == {"probe.few-shot.k-3": 0.5, "probe.knn.k-3": 0.5}
    (folder / "probes" / "free-seed0-knn.json").write_text("")  # what a power cut may leave of a file
    assert counts(folder) == (3, 2, 0, 0) and finish(start(folder)) == (0, ["free-seed0"])


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a driver of stand-in runs; every one is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def call(folder: Path, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(STAND_IN), "drive", str(folder), json.dumps(options)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def journal(folder: Path) -> Counter[tuple[str, str]]:
    """How often each (event, run) happened."""
    path = folder / "journal.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute"
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    out, errors = process.communicate(timeout=120)
    assert out, errors
    return process.returncode, json.loads(out.splitlines()[-1])["worked_on"]


def starts(folder: Path) -> Counter[str]:
    """How often each run was begun, gone on with, or tried."""
    found: Counter[str] = Counter()
    for (event, run), count in journal(folder).items():
        if event in ("begin", "resume", "clash"):
            found[run] += count
    return found


def events(folder: Path) -> int:
    return sum(journal(folder).values())


def counts(folder: Path) -> tuple[int, int, int, int]:
    found = status(folder)
    return found["planned"], found["done"], found["failed"], found["running"]


def test_an_undisturbed_driver_does_every_run_once_and_first_things_first(folder: Path, start: Start) -> None:
    assert counts(folder) == (RUNS, 0, 0, 0)
    code, worked_on = finish(start(folder, parallel=3))
    assert code == 0 and len(worked_on) == len(set(worked_on)) == RUNS
    assert counts(folder) == (RUNS, RUNS, 0, 0)
    lines = (folder / "journal.txt").read_text().splitlines()
    assert lines.index("end before-first-seed0") < lines.index("begin waits-seed0 0")
    again = finish(start(folder))
    assert again == (0, []), "a finished study is finished"
    config = json.loads((folder / "runs" / "waits-seed0" / "summary.json").read_text())["config"]
    assert "seed: 0" in config


def killed_often(folder: Path, start: Start, kills: int, **options: Any) -> None:
    """Kill drivers with SIGKILL at random moments while they work, then let one finish."""
    generator = random.Random(0)
    for _ in range(kills):
        before = events(folder)
        process = start(folder, **options)
        wait_for(lambda before=before, p=process: events(folder) > before or p.poll() is not None)
        time.sleep(generator.uniform(0, 0.35))
        process.kill()
        process.wait()
    process = start(folder, **{key: value for key, value in options.items() if key != "defect"})
    assert finish(process)[0] == 0


def test_killed_drivers_lose_nothing_and_repeat_nothing(folder: Path, start: Start) -> None:
    killed_often(folder, start, kills=5, parallel=2)
    seen = journal(folder)
    runs = [row["run"] for row in status(folder)["runs"]]
    assert [seen["end", run] for run in runs] == [1] * RUNS, "each finished, once"
    assert [seen["begin", run] for run in runs] == [1] * RUNS, "none began again from nothing"
    assert sum(count for (event, _), count in seen.items() if event == "resume") >= 1, "some were interrupted"
    assert not any(event == "clash" for event, _ in seen)
    assert counts(folder) == (RUNS, RUNS, 0, 0)


def test_control_a_driver_that_forgets_what_is_done_is_noticed(folder: Path, start: Start) -> None:
    assert finish(start(folder, parallel=3))[0] == 0
    assert finish(start(folder, parallel=3, defect="forgets what is done"))[0] == 0
    assert {count for (event, _), count in journal(folder).items() if event == "end"} == {2}


def test_two_drivers_at_once_do_no_run_twice(folder: Path, start: Start) -> None:
    drivers = [start(folder, parallel=2) for _ in range(3)]
    ended = [finish(process) for process in drivers]
    assert [code for code, _ in ended] == [0, 0, 0]
    assert Counter(run for _, worked_on in ended for run in worked_on) == {
        row["run"]: 1 for row in status(folder)["runs"]
    }
    assert set(starts(folder).values()) == {1}
    assert {claim.number for claim in Claims(folder / "claims").newest().values()} == {1}


def test_control_drivers_that_believe_nobody_take_runs_from_each_other(folder: Path, start: Start) -> None:
    drivers = [start(folder, defect="believes nobody") for _ in range(2)]
    wait_for(lambda: any(claim.number > 1 for claim in Claims(folder / "claims").newest().values()))
    for process in drivers:
        process.kill()


def test_what_a_killed_drivers_run_does_not_outlive_it(folder: Path, start: Start) -> None:
    process = start(folder)
    wait_for(lambda: events(folder) > 0)
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: any(event == "stop" for event, _ in journal(folder)))
    assert counts(folder) == (RUNS, 0, 0, 0), "its claim is dead, so nothing runs"


def test_a_failure_is_recorded_and_holds_up_only_what_waits_for_it(folder: Path, start: Start) -> None:
    (folder / "fails").mkdir()
    (folder / "fails" / "before-first-seed0").write_text("the loss is not finite")
    (folder / "fails" / "free-seed1").write_text("kill")
    assert finish(start(folder))[0] == 1
    assert counts(folder) == (RUNS, RUNS - 3, 2, 0)
    rows = {row["run"]: row for row in status(folder)["runs"]}
    assert rows["before-first-seed0"]["error"] == "the loss is not finite"
    assert "killed by SIGKILL (out of memory?)" in rows["free-seed1"]["error"]
    assert rows["waits-seed0"]["state"] == "planned"
    record = json.loads((folder / "failures" / "before-first-seed0.json").read_text())
    assert (record["exit_code"], record["job"], record["log"]) == (
        1,
        "training",
        "logs/before-first-seed0.txt",
    )

    assert finish(start(folder)) == (1, []), "not retried unless asked"
    code, worked_on = finish(start(folder, retry_failed=True))
    assert code == 1 and sorted(worked_on) == ["before-first-seed0", "free-seed1"], "once each"
    (folder / "fails" / "before-first-seed0").unlink()
    (folder / "fails" / "free-seed1").unlink()
    code, worked_on = finish(start(folder, retry_failed=True))
    assert code == 0 and sorted(worked_on) == ["before-first-seed0", "free-seed1", "waits-seed0"]
    assert counts(folder) == (RUNS, RUNS, 0, 0)
    assert journal(folder)["begin", "free-seed1"] == 1, "it went on from where it had failed"


@pytest.mark.parametrize(("how", "code"), [("minutes", 75), (signal.SIGINT, 130)])
def test_asked_to_stop_it_saves_and_goes_on_later(folder: Path, start: Start, how: Any, code: int) -> None:
    process = start(folder, **({"max_minutes": 0.02} if how == "minutes" else {}))
    wait_for(lambda: events(folder) > 0)
    if how != "minutes":
        process.send_signal(how)
    process.wait(60)
    assert process.returncode == code
    planned_, done, failed, running = counts(folder)
    assert done < planned_ and (failed, running) == (0, 0)
    assert finish(start(folder, parallel=3))[0] == 0
    seen = journal(folder)
    assert all(seen["begin", row["run"]] == seen["end", row["run"]] == 1 for row in status(folder)["runs"])


def test_only_takes_what_is_named_and_what_that_needs(folder: Path, start: Start) -> None:
    code, worked_on = finish(start(folder, only=["waits*", "free-seed2"]))
    assert code == 0 and worked_on == ["before-first-seed0", "waits-seed0", "free-seed2"]


DAMAGED = {
    "": "cannot be read",
    "[1]": "cannot be read",
    None: "is missing",
    "{}": "is damaged (lacks parameters, macs, steps)",
    json.dumps({**SUMMARY, "final": {"test": 3}}): "is damaged (lacks final.test)",
    json.dumps({**SUMMARY, "data": {"train": 1}}): "is damaged (lacks data.fingerprint)",
}


def test_a_damaged_summary_is_a_failure_that_says_what_to_do(folder: Path, start: Start) -> None:
    assert finish(start(folder, parallel=3))[0] == 0
    assert counts(folder) == (RUNS, RUNS, 0, 0), "control: a sound one is none"
    run = folder / "runs" / "before-first-seed0"
    sound = (run / "summary.json").read_text()
    for text, said in DAMAGED.items():
        (run / "summary.json").unlink() if text is None else (run / "summary.json").write_text(text)
        assert counts(folder) == (RUNS, RUNS - 2, 1, 0), "what stands on it is not done either"
        rows = {row["run"]: row for row in status(folder)["runs"]}
        error = rows["before-first-seed0"]["error"]
        assert error.startswith(f"{run / 'summary.json'} {said}: delete {run / 'status.json'} and run")
        assert len(table(folder)) == RUNS - 2, "the results are those of the others"
        (run / "summary.json").write_text(sound)
    (run / "summary.json").unlink()
    assert finish(start(folder)) == (1, []), "it is not passed over in silence"
    (run / "status.json").unlink()
    assert finish(start(folder)) == (0, ["before-first-seed0"])
    assert counts(folder) == (RUNS, RUNS, 0, 0) and len(table(folder)) == RUNS - 1


def test_a_plan_that_was_deleted_is_made_again_and_what_is_finished_is_kept(
    folder: Path, start: Start
) -> None:
    plan = open_plan(folder)
    assert finish(start(folder, only=["waits*", "free-seed2"]))[0] == 0
    (folder / "journal.txt").rename(folder.parent / "before.txt")  # the stand-in's own
    (folder / "plan.json").unlink()
    assert begin(folder, plan.study, lambda _: plan) == plan
    assert counts(folder) == (RUNS, 3, 0, 0)
    code, worked_on = finish(start(folder))
    assert code == 0 and sorted(worked_on) == ["free-seed0", "free-seed1", "free-seed3"]
    assert counts(folder) == (RUNS, RUNS, 0, 0)


def test_a_record_of_a_failure_without_words_is_a_failure(folder: Path) -> None:
    (folder / "failures").mkdir()
    (folder / "failures" / "free-seed0.json").write_text("{}")
    assert counts(folder) == (RUNS, 0, 1, 0)


def test_a_pattern_that_names_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no run is called so \(did you mean 'free-seed0'\?\)"):
        chosen(open_plan(folder), ["fre-seed0"])


def test_a_run_that_another_driver_took_over_is_left_to_it(folder: Path, start: Start) -> None:
    process = start(folder)
    wait_for(lambda: events(folder) > 0)
    claims = Claims(folder / "claims")
    former = claims.newest()["before-first-seed0"]
    assert claims.alive(former) and claims.take("before-first-seed0", former)
    wait_for(lambda: process.poll() is not None or journal(folder)["begin", "free-seed0"] > 0)
    assert journal(folder)["end", "before-first-seed0"] == 0, "the driver let go of it"


def test_the_last_error_is_the_runs_own(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a warning\nisopatch: error: first\nisopatch: error: the loss is not finite\nand a word\n")
    assert jobs.last_error(log, 1) == "the loss is not finite"
    log.write_text("Traceback\nSegmentation fault\n")
    assert jobs.last_error(log, 1) == "Segmentation fault"
    assert jobs.last_error(log, -11).startswith("killed by SIGSEGV; its last words: Segmentation fault")
    log.write_text("")
    assert jobs.last_error(log, 1) == "exit code 1, and not a word"


def test_what_an_earlier_attempt_said_is_not_this_ones_error(tmp_path: Path) -> None:
    """A clash of an earlier attempt would have a run that crashes tried again for ever."""
    log = tmp_path / "log.txt"
    log.write_text(f"isopatch: error: {jobs.IN_USE}\n")
    before = log.stat().st_size
    log.write_text(log.read_text() + "Traceback\nKeyError: 'x'\n")
    assert jobs.last_error(log, 1, before) == "KeyError: 'x'"
    assert jobs.IN_USE in jobs.last_error(log, 1), "the control"

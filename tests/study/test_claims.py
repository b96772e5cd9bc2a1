"""Claims: one holder at a time, the dead replaced, the living left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isopatch.files import create_file
from isopatch.study import claims as module
from isopatch.study.claims import Claims, machine, process_start


def gone() -> tuple[int, str | None]:
    """The number and start of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(process.pid)
    process.communicate(b"\n")
    return process.pid, started


def plant(folder: Path, number: int = 1, **holder: object) -> None:
    folder.mkdir(exist_ok=True)
    document = {"run": "a-seed0", "state": "held", "machine": machine(), **holder}
    (folder / f"a-seed0.{number}.json").write_text(json.dumps(document))


def test_of_many_that_try_at_once_one_takes_it(tmp_path: Path) -> None:
    for number in range(10):
        taken: list[bool] = []
        barrier = threading.Barrier(8)

        def take(
            taken: list[bool] = taken, barrier: threading.Barrier = barrier, run: str = f"r{number}"
        ) -> None:
            claims = Claims(tmp_path)
            barrier.wait()
            taken.append(claims.take(run, None))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", refuse)
    assert create_file(tmp_path / "x", b"first")
    assert not create_file(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


def test_a_living_process_keeps_its_claim_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "c")
    plant(tmp_path / "c", pid=os.getpid(), started=process_start(os.getpid()))
    assert claims.alive(claims.newest()["a-seed0"])
    pid, started = gone()
    plant(tmp_path / "c", number=2, pid=pid, started=started)
    dead = claims.newest()["a-seed0"]
    assert dead.number == 2 and not claims.alive(dead) and not claims.alive(dead, watch=False)


def test_a_process_number_taken_again_is_another_process(tmp_path: Path) -> None:
    plant(tmp_path / "c", pid=os.getpid(), started="1")
    claims = Claims(tmp_path / "c")
    assert not claims.alive(claims.newest()["a-seed0"])


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 30
    while process_start(process.pid) is not None:  # ended, and not waited for yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()


def test_another_machine_is_believed_while_it_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "c", machine="elsewhere", pid=1, started="1")
    path = tmp_path / "c" / "a-seed0.1.json"
    claims = Claims(tmp_path / "c", stale_after=120)
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    os.utime(path, (5, 5))  # its clock is decades behind: only whether it moves counts
    assert claims.alive(claims.newest()["a-seed0"])
    now += 119
    assert claims.alive(claims.newest()["a-seed0"])
    os.utime(path, (6, 6))
    assert claims.alive(claims.newest()["a-seed0"])
    now += 119
    assert claims.alive(claims.newest()["a-seed0"])
    now += 2
    assert not claims.alive(claims.newest()["a-seed0"])


def test_ended_claims_are_free_and_numbers_go_up(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert claims.take("a", None)
    first = claims.newest()["a"]
    assert claims.alive(first) and not Claims(tmp_path).take("a", None)
    claims.end("a", "released")
    assert not claims.alive(claims.newest()["a"])
    assert claims.take("a", claims.newest()["a"])
    assert claims.newest()["a"].number == 2 and claims.lost() == []
    assert Claims(tmp_path).take("a", claims.newest()["a"])
    assert claims.lost() == ["a"]


def test_a_claim_that_is_being_written_counts_as_held(tmp_path: Path) -> None:
    (tmp_path / "a.1.json").write_bytes(b"")
    claims = Claims(tmp_path)
    assert claims.alive(claims.newest()["a"])


@pytest.mark.parametrize(
    "text",
    [
        *('"x"', "[1]", "{}", '{"state": "held"}', '{"state": 3, "machine": "x", "pid": 1, "started": "1"}'),
        '{"state": "held", "machine": "x", "pid": "1", "started": "1"}',
        '{"state": "held", "pid": 1, "started": "1"}',
    ],
)
def test_what_is_no_claim_is_held_by_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.1.json").write_text(text)
    claims = Claims(tmp_path)
    found = claims.newest()["a"]
    assert not claims.alive(found) and not claims.alive(found, watch=False)
    assert claims.take("a", found) and claims.newest()["a"].number == 2
    assert (tmp_path / "a.1.json").read_text() == text, "nothing is lost"


def test_beats_move_the_files_time(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claims.take("a", None)
    os.utime(tmp_path / "a.1.json", (5, 5))
    claims.beat()
    assert claims.newest()["a"].modified > 5


def test_a_claim_that_is_gone_does_not_stop_the_others_from_beating(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claims.take("a", None)
    claims.take("b", None)
    os.utime(tmp_path / "b.1.json", (5, 5))
    (tmp_path / "a.1.json").unlink()
    claims.beat()
    assert claims.newest()["b"].modified > 5

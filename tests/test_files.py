"""Files are replaced whole, also by writers that share a folder and a process number."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isopatch import files
from isopatch.files import create_file, replace_file, replace_link, temporary_beside

SIZE = 200_000


def together(first: Callable[[], object], second: Callable[[], object]) -> list[BaseException]:
    """Do both at a time; returns what they raised."""
    raised: list[BaseException] = []

    def work(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers of one process number, which all have written before any renames: as two containers may."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    written, write = threading.Barrier(2), files.write_new

    def both(path: Path, content: bytes) -> None:
        write(path, content)
        written.wait(timeout=30)

    monkeypatch.setattr(files, "write_new", both)


@pytest.mark.usefixtures("in_step")
def test_two_writers_of_one_process_number_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "table"
    contents = [bytes([letter]) * SIZE for letter in b"ab"]
    assert together(*(lambda c=c: replace_file(path, c) for c in contents)) == []
    assert path.read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["table"]


@pytest.mark.usefixtures("in_step")
def test_control_one_temporary_name_for_both_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "temporary_beside", lambda path: path.with_name(f".{path.name}.tmp-7"))
    raised = together(*(lambda c=c: replace_file(tmp_path / "table", c) for c in (b"a", b"b")))
    assert [type(error) for error in raised] == [FileNotFoundError]


@pytest.mark.usefixtures("in_step")
def test_of_two_creators_of_one_process_number_one_wins(tmp_path: Path) -> None:
    won: list[bool] = []
    contents = [b"a" * SIZE, b"b" * SIZE]
    calls = (lambda c=c: won.append(create_file(tmp_path / "claim", c)) for c in contents)
    assert together(*calls) == [] and sorted(won) == [False, True]
    assert (tmp_path / "claim").read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["claim"]


def test_a_link_is_replaced_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    link = tmp_path / "last"
    for target in ("one", "two"):
        replace_link(link, target)
        assert os.readlink(link) == target
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    for call in (lambda path: replace_link(path, "three"), lambda path: replace_file(path, b"")):
        with pytest.raises(OSError):
            call(tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "last"]


def test_a_temporary_name_is_one_that_is_cleaned_up_and_fits(tmp_path: Path) -> None:
    from isopatch.training.checkpoint import clean_temporary

    longest = tmp_path / ("é" * 127)
    replace_file(longest, b"whole")
    assert longest.read_bytes() == b"whole"
    left = temporary_beside(longest)
    left.write_bytes(b"as a kill leaves it")
    clean_temporary(tmp_path)
    assert not left.exists() and longest.exists()

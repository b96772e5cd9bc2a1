"""The cache of a teacher's answers: read as written, damaged records found, other things refused."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch

from isopatch.errors import IsopatchError, UsageError
from isopatch.training.cache_header import HEADER, Pictures
from isopatch.training.teacher_cache import TeacherCache

FINGERPRINT = {"teacher": "t", "data": "d", "data_seed": 0, "augment": {"flip": 0.5}, "batch_size": 4}


def open_(
    folder: Path,
    *,
    classes_of: dict | None = None,
    pixels: str | None = "p",
    state: str | None = "s",
    **changes,
) -> TeacherCache:
    options = {"temperature": 3.0, "soft": True, "top_k": None, "tolerance": 0.01} | changes
    pictures = Pictures(pixels, state)
    return TeacherCache(folder, classes_of or FINGERPRINT, pictures, records_per_view=5, batch=4, **options)


def answers(place: int, classes: int = 10, *, sharpness: float = 3.0) -> torch.Tensor:
    return sharpness * torch.randn(4, classes, generator=torch.Generator().manual_seed(place))


@pytest.mark.parametrize("classes", [10, 1000])
def test_reads_what_was_written_in_any_order(tmp_path: Path, classes: int) -> None:
    cache = open_(tmp_path / "c")
    written = {place: cache.write(place, answers(place, classes)) for place in (7, 0, 12, 3)}
    other = open_(tmp_path / "c")
    for place, expected in written.items():
        assert torch.equal(other.read(place), expected)
    assert other.read(1) is None
    assert other.read(11) is None
    assert other.read(40) is None
    if classes == 10:
        assert torch.equal(written[7], answers(7))


def test_a_damaged_record_is_found_and_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = open_(tmp_path / "c")
    cache.write(0, answers(0))
    cache.write(1, answers(1))
    file = tmp_path / "c" / "view-00000.bin"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 + 20] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        assert cache.read(1) is None
    assert "record 1 are damaged" in caplog.text
    assert torch.equal(cache.read(0), answers(0))
    cache.write(1, answers(1))
    assert torch.equal(cache.read(1), answers(1))
    assert cache.report("r", remembered=0, asked=0, seconds=0.0)["damaged_records"] == 1


def test_a_record_at_another_place_is_not_taken(tmp_path: Path) -> None:
    cache = open_(tmp_path / "c")
    cache.write(0, answers(0))
    file = tmp_path / "c" / "view-00000.bin"
    file.write_bytes(2 * file.read_bytes())
    assert cache.read(0) is not None
    assert cache.read(1) is None


def test_a_cut_record_counts_as_missing(tmp_path: Path) -> None:
    cache = open_(tmp_path / "c")
    cache.write(0, answers(0))
    file = tmp_path / "c" / "view-00000.bin"
    file.write_bytes(file.read_bytes()[:-3])
    assert cache.read(0) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("teacher", "u", "the teacher is another one"),
        ("data", "e", "the data is another one"),
        ("data_seed", 1, "data_seed was 0, now 1"),
        ("batch_size", 8, "batch_size was 4, now 8"),
        ("augment", {"flip": 0.0}, r"augment.flip was 0.5, now 0.0"),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path: Path, key: str, value, message: str) -> None:
    open_(tmp_path / "c").write(0, answers(0))
    assert open_(tmp_path / "c").read(0) is not None
    with pytest.raises(UsageError, match=message):
        open_(tmp_path / "c", classes_of=FINGERPRINT | {key: value})


def test_another_temperature_needs_every_logit(tmp_path: Path) -> None:
    open_(tmp_path / "exact").write(0, answers(0))
    open_(tmp_path / "exact", temperature=1.0)
    open_(tmp_path / "part", top_k=4).write(0, answers(0, 1000))
    open_(tmp_path / "part", top_k=4)
    with pytest.raises(UsageError, match="temperature was 3, now 1"):
        open_(tmp_path / "part", temperature=1.0)
    with pytest.raises(UsageError, match="cache_top_k was 4, now 8"):
        open_(tmp_path / "part", top_k=8)


def test_more_answers_than_there_are_classes_are_all_of_them_again_and_again(tmp_path: Path) -> None:
    open_(tmp_path / "c", top_k=100).write(0, answers(0))
    assert torch.equal(open_(tmp_path / "c", top_k=100).read(0), answers(0))
    with pytest.raises(UsageError, match="cache_top_k was 10, now 4"):
        open_(tmp_path / "c", top_k=4)


def test_a_cache_that_may_move_the_loss_more_than_is_allowed_now_is_refused(tmp_path: Path) -> None:
    open_(tmp_path / "c", tolerance=0.2).write(0, answers(0, 1000, sharpness=25.0))
    open_(tmp_path / "c", tolerance=0.3)
    with pytest.raises(UsageError, match=r"cache_tolerance was 0\.2, now 0\.01"):
        open_(tmp_path / "c", tolerance=0.01)
    open_(
        tmp_path / "c", tolerance=0.01, temperature=1.0, soft=False
    )  # nobody looks at more than the decision


def test_answers_unlike_the_first_are_kept_in_full(tmp_path: Path) -> None:
    cache = open_(tmp_path / "c", tolerance=0.02)
    sharp, flat = answers(0, 1000, sharpness=25.0), answers(1, 1000, sharpness=4.0)
    kept = cache.write(0, sharp)
    assert cache.coding is not None and cache.coding.kept < 500
    assert cache.coding.loss_moved(sharp) <= 0.02 < cache.coding.loss_moved(flat)
    assert torch.equal(cache.write(1, flat), flat)
    again = open_(tmp_path / "c", tolerance=0.02)
    assert torch.equal(again.read(1), flat)
    assert torch.equal(again.read(0), kept)
    told = cache.report("r", remembered=0, asked=8, seconds=1.0)
    assert told["records_in_full"] == 1
    assert told["bytes_per_picture"] > (8 + cache.coding.size(4)) / 4
    given = open_(tmp_path / "given", top_k=4)  # control: who gives the number gets it
    given.write(0, sharp)
    assert not torch.equal(given.write(1, flat), flat)


def test_pictures_that_changed_under_their_names_are_refused_or_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_(tmp_path / "c").write(0, answers(0))
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        open_(tmp_path / "c", state="another")  # the same pixels, written anew
    assert "written anew" not in caplog.text
    with pytest.raises(UsageError, match="the pictures are others"):
        open_(tmp_path / "c", pixels="q")
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        open_(tmp_path / "c", pixels=None, state="another")
    assert "were written anew" in caplog.text


@pytest.mark.parametrize("content", ["[]", "{", '{"format": "isopatch-teacher-cache-2"}', "changed"])
def test_a_damaged_header_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    open_(tmp_path / "c").write(0, answers(0, 1000, sharpness=25.0))
    header = tmp_path / "c" / HEADER
    changed = header.read_text().replace('"kept": ', '"kept": 1')
    header.write_text(changed if content == "changed" else content)
    with pytest.raises(UsageError, match=r"cache\.json is damaged .*: delete the folder") as caught:
        open_(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_a_file_and_a_place_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file is a file; give a folder"):
        open_(tmp_path / "file")
    with pytest.raises(UsageError, match=r"distill.cache: cannot write to /proc/cache"):
        open_(Path("/proc/cache"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_(tmp_path / "c")
    cache.write(0, answers(0))
    monkeypatch.setattr(os, "pwrite", lambda *_: 7)  # what a disk with 7 bytes left answers
    with pytest.raises(
        IsopatchError, match=r"distill.cache: cannot write to .*c: there is no room.* MB free"
    ):
        cache.write(1, answers(1))


def test_a_process_killed_while_it_began_the_cache_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / f".{HEADER}.4711").write_text("{")
    open_(tmp_path).write(0, answers(0))
    assert torch.equal(open_(tmp_path).read(0), answers(0))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files and no teacher cache"):
        open_(tmp_path)
    (tmp_path / HEADER).write_text(json.dumps({"format": "other"}))
    with pytest.raises(UsageError, match="not a teacher cache of this version"):
        open_(tmp_path)


def test_two_processes_may_begin_one_cache(tmp_path: Path) -> None:
    first, second = open_(tmp_path / "c"), open_(tmp_path / "c")
    first.write(0, answers(0, 1000))
    second.write(1, answers(1, 1000))
    assert first.coding == second.coding
    assert torch.equal(first.read(1), second.read(1))


def test_what_the_cache_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = open_(tmp_path / "c")
    cache.write(0, answers(0))
    for _ in range(2):  # a run that ends twice is counted once
        asked = cache.report("first", remembered=0, asked=4, seconds=2.0)
    assert asked["teacher_seconds_saved"] == 0
    assert asked["bytes_per_picture"] == 42.0
    cache.report("second", remembered=0, asked=4, seconds=4.0)
    saved = open_(tmp_path / "c").report("third", remembered=40, asked=0, seconds=0.0)
    assert saved["teacher_seconds_saved"] == pytest.approx(40 * 6.0 / 8)
    (tmp_path / "c" / "asked-second.json").write_text('{"pictures": 12')
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        left = cache.report("fourth", remembered=40, asked=0, seconds=0.0)
    assert left["teacher_seconds_saved"] == pytest.approx(20.0)
    assert "asked-second.json is damaged" in caplog.text

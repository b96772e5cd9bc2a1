from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from isopatch.data.check import check_data
from isopatch.data.check_text import render_check
from isopatch.errors import UsageError


def shared(name: str) -> Path:
    root = Path(os.environ.get("ISOPATCH_DATA", "/nowhere")) / name
    if not root.is_dir():
        pytest.skip(f"ISOPATCH_DATA does not name a folder with {name}")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    level = 0
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            for index in range(count):
                level += 1
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (10 + level, 20), (level, 0, 0)).save(path)
    return root


def test_a_sound_tree(tree: Path) -> None:
    result = check_data(tree)
    assert (result["pictures"], result["readable"], result["unreadable"]) == (12, 12, 0)
    assert list(result["splits"]) == ["train", "test"]
    assert result["splits"]["train"]["classes"] == {"cat": 4, "dog": 4}
    assert result["splits"]["train"]["imbalance"] == 1
    assert result["sizes"]["height"] == {"min": 20, "median": 20, "max": 20}
    assert result["sizes"]["width"] == {"min": 11, "median": 16.5, "max": 22}
    assert result["formats"] == {"PNG": 12} and result["modes"] == {"RGB": 12}
    assert result["duplicates"] == [] and result["problem"] is None
    json.dumps(result, allow_nan=False)


def test_unreadable_files_are_named_with_their_reason(tree: Path) -> None:
    (tree / "train" / "cat" / "cut.png").write_bytes((tree / "train" / "cat" / "0.png").read_bytes()[:48])
    (tree / "train" / "cat" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    os.mkfifo(tree / "test" / "dog" / "pipe.jpg")
    (tree / "test" / "dog" / "link.jpg").symlink_to("gone.jpg")
    (tree / "test" / "dog" / "notes.txt").write_text("x")
    result = check_data(tree)
    assert (result["readable"], result["unreadable"], result["pictures"]) == (12, 4, 16)
    assert result["splits"]["test"]["unreadable"] == 2
    reasons = {Path(bad["file"]).name: bad["reason"] for bad in result["unreadable_files"]}
    assert set(reasons) == {"cut.png", "phone.heic", "pipe.jpg", "link.jpg"}
    assert reasons["pipe.jpg"] == "a named pipe, not a regular file"
    assert "HEIC" in reasons["phone.heic"]
    assert result["ignored_files"] == {".txt": 1}


def test_duplicates_within_and_across_splits(tree: Path) -> None:
    shutil.copy(tree / "train" / "cat" / "0.png", tree / "train" / "cat" / "same.png")
    shutil.copy(tree / "train" / "dog" / "1.png", tree / "test" / "cat" / "leak.png")
    result = check_data(tree)
    assert result["duplicates_within_splits"] == 1 and result["duplicates_across_splits"] == 1
    within, across = sorted(result["duplicates"], key=lambda group: group["across_splits"])
    assert [file["class"] for file in within["files"]] == ["cat", "cat"] and not within["labels_differ"]
    assert {file["split"] for file in across["files"]} == {"train", "test"} and across["labels_differ"]
    text = render_check(result)
    assert "same content: 2" in text and "(ACROSS SPLITS, DIFFERENT CLASSES)" in text


def test_unreadable_files_are_no_duplicates(tree: Path) -> None:
    for name in ("x.png", "y.png"):
        (tree / "train" / "cat" / name).write_bytes(b"rubbish")
    assert check_data(tree)["duplicates"] == []


def test_a_layout_that_training_refuses_is_still_read_and_the_reason_given(tree: Path) -> None:
    (tree / "test" / "cat").rename(tree / "test" / "Cat")
    result = check_data(tree)
    assert result["readable"] == 12 and "upper and lower case" in result["problem"]
    assert "training would refuse this data" in render_check(result)


def test_a_flat_folder_of_pictures(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("L", (5, 5), index).save(tmp_path / f"{index}.png")
    (tmp_path / "bad.jpg").write_bytes(b"")
    result = check_data(tmp_path)
    assert (result["readable"], result["unreadable"]) == (3, 1)
    assert result["problem"] is not None and result["unreadable_files"][0]["class"] is None


def test_faint_pictures_are_remarked_on(tmp_path: Path) -> None:
    import numpy as np

    faint = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(faint).save(tmp_path / name / "x.png")
    result = check_data(tmp_path)
    assert len(result["remarks"]) == 2 and "0..4095 of 0..65535" in result["remarks"][0]["remark"]
    assert "look wrong: 2" in render_check(result)


def test_names_that_break_terminals_stay_on_one_line(tree: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n\x1b[31m.jpg")
    (tree / "train" / "cat" / name).write_bytes(b"rubbish")
    result = check_data(tree)
    text = render_check(result)
    json.dumps(result).encode("utf-8")
    text.encode("utf-8")
    assert "\x1b" not in text and "caf\\xe9\\n\\x1b[31m.jpg: not a picture" in text


def test_long_lists_are_cut_in_text_only(tree: Path) -> None:
    for index in range(30):
        (tree / "train" / "cat" / f"bad{index}.png").write_bytes(b"rubbish%d" % index)
    result = check_data(tree)
    assert len(result["unreadable_files"]) == 30
    assert "and 10 more (--json lists all)" in render_check(result)


def test_no_such_data() -> None:
    with pytest.raises(UsageError):
        check_data("./nowhere")


def test_digits() -> None:
    result = check_data("digits")
    assert result["readable"] == 1797 and result["formats"] == {"array": 1797}
    assert {split: part["readable"] for split, part in result["splits"].items()} == {
        "train": 1438,
        "test": 359,
    }


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    import io

    cells: list[Any] = []
    for level in (1, 2, 2):
        file = io.BytesIO()
        Image.new("RGB", (3, 4), (level, 0, 0)).save(file, "PNG")
        cells.append(file.getvalue())
    cells.append(b"rubbish")
    pq.write_table(pa.table({"image": cells, "label": ["a", "b", "b", "a"]}), tmp_path / "train.parquet")
    result = check_data(tmp_path)
    assert (result["readable"], result["unreadable"]) == (3, 1)
    assert result["unreadable_files"][0]["file"] == "train.parquet:3"
    assert [file["file"] for file in result["duplicates"][0]["files"]] == [
        "train.parquet:1",
        "train.parquet:2",
    ]


def test_odd_images_are_all_counted() -> None:
    result = check_data(shared("odd-images"))
    assert (result["pictures"], result["readable"], result["unreadable"]) == (716, 669, 47)
    assert len(result["unreadable_files"]) == 47 and all(bad["reason"] for bad in result["unreadable_files"])
    assert result["ignored_files"] == {"(none)": 2, ".csv": 1, ".txt": 1}
    assert len(result["remarks"]) == 9


def test_trashnet_s_duplicates_are_found() -> None:
    result = check_data(shared("trashnet"))
    assert (result["readable"], result["unreadable"]) == (2527, 0)
    assert {split: part["readable"] for split, part in result["splits"].items()} == {
        "train": 1768,
        "val": 328,
        "test": 431,
    }
    across = [group for group in result["duplicates"] if group["across_splits"]]
    assert sorted("/".join(sorted({f["split"] for f in group["files"]})) for group in across) == [
        "test/train",
        "train/val",
    ]
    assert result["duplicates_within_splits"] == 1

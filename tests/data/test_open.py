"""Opening data: the class-folder table, cuts by seed, bad files, names of sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isopatch.data.open import open_data
from isopatch.data.source import DataSplits, ImageSource
from isopatch.errors import UsageError
from isopatch.image.decode import DecodeError

COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "fox": (0, 0, 255)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train/val/test of three classes; the colour of a picture says which class it is."""
    root = tmp_path / "data"
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            for index in range(count):
                picture(root / split / name / f"{split}{index}.png", colour)
    return root


def check_no_label_shifted(splits: DataSplits) -> None:
    """Every picture's colour is that of the class its label names."""
    for source in (splits.train, splits.val, splits.test):
        if source is None:
            continue
        assert source.classes == splits.classes
        for index in range(len(source)):
            name = source.classes[source.labels[index]]
            assert source.read(index).getpixel((0, 0)) == COLOURS[name], source.name(index)


def counts(source: ImageSource | None) -> dict[str, int]:
    assert source is not None
    numbers = np.bincount(source.labels, minlength=len(source.classes))
    return dict(zip(source.classes, numbers.tolist(), strict=True))


def test_a_complete_tree(tree: Path) -> None:
    splits = open_data(tree)
    assert splits.classes == ("cat", "dog", "fox")
    assert counts(splits.train) == {"cat": 6, "dog": 6, "fox": 6}
    assert counts(splits.val) == {"cat": 3, "dog": 3, "fox": 3}
    assert counts(splits.test) == {"cat": 2, "dog": 2, "fox": 2}
    assert splits.notes == () and splits.skipped == {}
    check_no_label_shifted(splits)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def remove(folder: Path) -> None:
    empty(folder)
    folder.rmdir()


def extra(folder: Path) -> None:
    picture(folder.parent / "bird" / "1.png", (9, 9, 9))


def extra_empty(folder: Path) -> None:
    (folder.parent / "bird").mkdir()


def renamed(folder: Path) -> None:
    folder.rename(folder.parent / (folder.name + "s"))


def other_case(folder: Path) -> None:
    folder.rename(folder.parent / folder.name.upper())


def hidden(folder: Path) -> None:
    picture(folder.parent / ".ipynb_checkpoints" / "1.png", (9, 9, 9))
    picture(folder.parent / "__MACOSX" / "1.png", (9, 9, 9))


Change = Callable[[Path], None]

# change, split -> what open_data says: an error's text, or None and the text of a note
CASES: list[tuple[Change, str, str | None, str | None]] = [
    (empty, "train", "train: no pictures of class 'dog'", None),
    (empty, "val", None, "val has no pictures of class 'dog'"),
    (empty, "test", None, "test has no pictures of class 'dog'"),
    (remove, "train", "val: class 'dog' is not among train's classes", None),
    (remove, "val", None, "val has no pictures of class 'dog'"),
    (remove, "test", None, "test has no pictures of class 'dog'"),
    (extra, "train", None, "val has no pictures of class 'bird'"),
    (extra, "val", "val: class 'bird' is not among train's classes", None),
    (extra, "test", "test: class 'bird' is not among train's classes", None),
    (extra_empty, "train", "train: no pictures of class 'bird'", None),
    (extra_empty, "val", None, "val: the class 'bird', unknown to train, holds no pictures"),
    (extra_empty, "test", None, "test: the class 'bird', unknown to train, holds no pictures"),
    (renamed, "train", "val: class 'dog' is not among train's classes (did you mean 'dogs'?)", None),
    (renamed, "val", "val: class 'dogs' is not among train's classes (did you mean 'dog'?)", None),
    (renamed, "test", "test: class 'dogs' is not among train's classes (did you mean 'dog'?)", None),
    (other_case, "train", "train writes it 'DOG', and upper and lower case differ", None),
    (other_case, "val", "train writes it 'dog', and upper and lower case differ", None),
    (other_case, "test", "train writes it 'dog', and upper and lower case differ", None),
    (hidden, "train", None, "train: 2 hidden files or folders were ignored."),
    (hidden, "val", None, "val: 2 hidden files or folders were ignored."),
    (hidden, "test", None, "test: 2 hidden files or folders were ignored."),
]


@pytest.mark.parametrize(
    ("change", "split", "error", "note"), CASES, ids=[f"{case[0].__name__}-{case[1]}" for case in CASES]
)
def test_class_folder_table(
    change: Change, split: str, error: str | None, note: str | None, tree: Path
) -> None:
    change(tree / split / "dog")
    if error is not None:
        with pytest.raises(UsageError) as caught:
            open_data(tree)
        assert error in str(caught.value) and "\n" not in str(caught.value)
        return
    splits = open_data(tree)
    assert any(note is not None and note in line for line in splits.notes), splits.notes
    for source in (splits.val, splits.test):
        assert source is not None and source.classes == splits.classes
    if change is not extra:
        assert splits.classes == ("cat", "dog", "fox")
        check_no_label_shifted(splits)


def test_the_colour_check_notices_a_shift(tree: Path) -> None:
    """Negative control of the table: labels by position in the split's own folders are caught."""
    remove(tree / "val" / "dog")
    splits = open_data(tree)
    assert splits.val is not None
    shifted = np.unique(splits.val.labels, return_inverse=True)[1]  # cat 0, fox 1: as a naive reader counts
    splits.val.labels = shifted  # type: ignore[misc]
    with pytest.raises(AssertionError):
        check_no_label_shifted(splits)


def test_decomposed_names_are_the_same_class(tmp_path: Path) -> None:
    for split, name in (("train", "caf\u00e9"), ("val", "cafe\u0301")):
        picture(tmp_path / "d" / split / name / "1.png", (1, 1, 1))
        picture(tmp_path / "d" / split / "tea" / "1.png", (1, 1, 1))
    splits = open_data(tmp_path / "d")
    assert counts(splits.val) == {"caf\u00e9": 1, "tea": 1}


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "dev"])
def test_other_names_of_the_validation_split(name: str, tree: Path) -> None:
    (tree / "val").rename(tree / name)
    splits = open_data(tree)
    assert len(splits.val or ()) == 9 and len(splits.train or ()) == 18


def test_two_folders_for_one_role_are_refused(tree: Path) -> None:
    picture(tree / "validation" / "cat" / "1.png", (1, 1, 1))
    with pytest.raises(UsageError, match="both stand for val"):
        open_data(tree)


def test_training_and_testing_are_splits_not_classes(tree: Path) -> None:
    (tree / "train").rename(tree / "Training")
    (tree / "test").rename(tree / "Testing")
    assert open_data(tree).classes == ("cat", "dog", "fox")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_any_picture_is_refused(split: str, tree: Path) -> None:
    for name in COLOURS:
        empty(tree / split / name)
    with pytest.raises(UsageError, match=f"{split}: no pictures"):
        open_data(tree)


def test_pictures_in_odd_places_are_noted(tree: Path) -> None:
    picture(tree / "train" / "loose.png", (1, 1, 1))
    (tree / "train" / "cat" / "phone.HEIC").write_bytes(b"x")
    (tree / "extra").mkdir()
    notes = " ".join(open_data(tree).notes)
    assert "train: 1 pictures outside class folders were ignored." in notes
    assert "(.heic)" in notes and "'extra' is not a split" in notes


def test_without_val_one_is_cut_by_seed(tree: Path) -> None:
    for name in COLOURS:
        remove(tree / "val" / name)
    (tree / "val").rmdir()
    splits = open_data(tree, val_fraction=0.34, split_seed=1)
    assert counts(splits.val) == {"cat": 2, "dog": 2, "fox": 2}
    assert counts(splits.train) == {"cat": 4, "dog": 4, "fox": 4}
    assert counts(splits.test) == {"cat": 2, "dog": 2, "fox": 2}
    assert any("6 of 18 training pictures (34% of each class, seed 1)" in note for note in splits.notes)
    check_no_label_shifted(splits)
    again = open_data(tree, val_fraction=0.34, split_seed=1)
    other = open_data(tree, val_fraction=0.34, split_seed=2)
    assert splits.val is not None and again.val is not None and other.val is not None
    assert again.val.fingerprint == splits.val.fingerprint
    assert other.val.fingerprint != splits.val.fingerprint
    none = open_data(tree, val_fraction=0)
    assert none.val is None and len(none.train or ()) == 18
    assert any("last checkpoint" in note for note in none.notes)


def test_one_tree_is_cut_into_three(tree: Path) -> None:
    splits = open_data(tree / "train", val_fraction=0.25, test_fraction=0.34)
    parts = [splits.train, splits.val, splits.test]
    assert [counts(part)["cat"] for part in parts] == [3, 1, 2]
    seen = [part.name(i) for part in parts if part is not None for i in range(len(part))]
    assert len(seen) == len(set(seen)) == 18
    assert len(splits.notes) == 2
    check_no_label_shifted(splits)


def test_the_test_cut_does_not_depend_on_the_validation_cut(tree: Path) -> None:
    one = open_data(tree / "train", val_fraction=0.1).test
    other = open_data(tree / "train", val_fraction=0.4).test
    assert one is not None and other is not None and one.fingerprint == other.fingerprint


def test_only_a_test_folder(tree: Path) -> None:
    for split in ("train", "val"):
        for name in COLOURS:
            remove(tree / split / name)
        (tree / split).rmdir()
    splits = open_data(tree)
    assert splits.train is None and splits.val is None
    assert splits.classes == ("cat", "dog", "fox")
    check_no_label_shifted(splits)


def test_a_folder_without_class_folders_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected .*/<class>/<picture>"):
        open_data(tmp_path)
    picture(tmp_path / "1.png", (1, 1, 1))
    with pytest.raises(UsageError, match="1 pictures lie outside class folders"):
        open_data(tmp_path)
    picture(tmp_path / "only" / "1.png", (1, 1, 1))
    with pytest.raises(UsageError, match="at least two classes"):
        open_data(tmp_path)


def test_a_bad_file_fails_when_read_and_is_named(tree: Path) -> None:
    bad = tree / "train" / "dog" / "train3.png"
    bad.write_bytes(b"rubbish")
    train = open_data(tree).train
    assert train is not None
    index = next(i for i in range(len(train)) if train.name(i) == str(bad))
    with pytest.raises(DecodeError, match=r"train3\.png: not a picture"):
        train.read(index)


def test_bad_files_are_skipped_counted_and_never_replaced(tree: Path) -> None:
    before = open_data(tree)
    (tree / "train" / "dog" / "train3.png").write_bytes(b"rubbish")
    os.mkfifo(tree / "val" / "cat" / "pipe.png")
    splits = open_data(tree, bad="skip")
    assert counts(splits.train) == {"cat": 6, "dog": 5, "fox": 6}
    assert counts(splits.val) == {"cat": 3, "dog": 3, "fox": 3}
    (name, reason), *rest = splits.skipped["train"]
    assert name.endswith("train3.png") and "not a picture" in reason and not rest
    assert splits.skipped["val"][0][1] == "a named pipe, not a regular file"
    assert "train: 1 of 18 pictures cannot be read and were skipped." in splits.notes
    check_no_label_shifted(splits)
    assert before.train is not None and splits.train is not None
    assert splits.train.fingerprint != before.train.fingerprint


def test_skipping_does_not_move_pictures_between_splits(tree: Path) -> None:
    root = tree / "train"

    def members(bad: str) -> dict[str, set[str]]:
        splits = open_data(root, bad=bad)
        named = {"train": splits.train, "val": splits.val, "test": splits.test}
        return {role: {s.name(i) for i in range(len(s))} for role, s in named.items() if s is not None}

    (root / "dog" / "train3.png").write_bytes(b"rubbish")
    failing, skipping = members("fail"), members("skip")
    for role in failing:
        assert skipping[role] == {name for name in failing[role] if not name.endswith("dog/train3.png")}


def test_a_class_that_loses_all_its_pictures_is_refused(tree: Path) -> None:
    for file in (tree / "train" / "dog").iterdir():
        file.write_bytes(b"rubbish")
    with pytest.raises(UsageError, match="no pictures of class 'dog'"):
        open_data(tree, bad="skip")


def test_skipping_works_without_a_cache_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOPATCH_CACHE", str(tree / "train" / "cat" / "train0.png" / "impossible"))
    (tree / "train" / "dog" / "train3.png").write_bytes(b"rubbish")
    assert len(open_data(tree, bad="skip").skipped["train"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, "data.val_fraction 1.0: give a share"),
        ({"val_fraction": -0.1}, "data.val_fraction -0.1: give a share"),
        ({"val_fraction": float("nan")}, "data.val_fraction nan: give a share"),
        ({"test_fraction": 1.0}, "test_fraction 1.0: give a share"),
        ({"bad": "ignore"}, "bad 'ignore'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str, tree: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_data(tree, **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digts", "did you mean 'digits'"),
        ("cifar11", "did you mean 'cifar10'"),
        ("./nowhere", "no such file or folder"),
        ("/nowhere/at/all", "no such file or folder"),
        ("nowhere.parquet", "no such file or folder"),
        ("two words", "no such file or folder"),
    ],
)
def test_unknown_sources_are_one_clear_line(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_data(source)
    assert f"'{source}'" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match="neither a folder nor a Parquet file"):
        open_data(tmp_path / "a.zip")


def test_digits() -> None:
    splits = open_data("digits")
    assert (len(splits.train or ()), len(splits.val or ()), len(splits.test or ())) == (1293, 145, 359)
    assert splits.test is not None and min(counts(splits.test).values()) >= 35
    whole = open_data("digits", val_fraction=0, split_seed=5)
    assert whole.test is not None and whole.test.fingerprint == splits.test.fingerprint
    assert len(whole.train or ()) == 1438 and whole.val is None

from __future__ import annotations

import pytest

from isopatch.data.classmap import check_train_classes, class_name, match_classes
from isopatch.errors import UsageError


def test_another_split_is_matched_by_name() -> None:
    mapping, notes = match_classes(("cat", "dog", "fox"), {"fox": 2, "dog": 3, "cat": 1}, "val", "val")
    assert mapping.tolist() == [2, 1, 0]
    assert notes == []


def test_a_missing_or_empty_class_is_noted_and_shifts_nothing() -> None:
    mapping, notes = match_classes(("cat", "dog", "fox"), {"cat": 1, "dog": 0, "fox": 2}, "val", "val")
    assert mapping.tolist() == [0, 1, 2]
    assert notes == ["val has no pictures of class 'dog': nothing is measured there."]
    mapping, notes = match_classes(("cat", "dog", "fox"), {"cat": 1, "fox": 2}, "val", "val")
    assert mapping.tolist() == [0, 2]
    assert "'dog'" in notes[0]


@pytest.mark.parametrize(
    ("extra", "hint"),
    [
        ("wolf", "class 'wolf' is not among"),
        ("dogs", "did you mean 'dog'"),
        ("Dog", "upper and lower case differ"),
    ],
)
def test_an_unknown_class_with_pictures_is_refused_by_name(extra: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint) as caught:
        match_classes(("cat", "dog"), {"cat": 1, extra: 1}, "data/val", "val")
    assert str(caught.value).startswith("data/val: ") and f"'{extra}'" in str(caught.value)


def test_names_that_differ_only_in_case_are_two_classes_when_exact() -> None:
    mapping, _ = match_classes(("A", "a"), {"a": 1, "A": 1}, "val", "val")
    assert mapping.tolist() == [1, 0]


def test_an_unknown_class_without_pictures_is_noted() -> None:
    mapping, notes = match_classes(("cat", "dog"), {"bird": 0, "cat": 1, "dog": 1}, "val", "val")
    assert mapping.tolist() == [-1, 0, 1]
    assert "'bird'" in notes[0]


def test_train_needs_two_classes_and_pictures_in_each() -> None:
    assert check_train_classes({"b": 1, "a": 2}, "train") == ("b", "a")
    with pytest.raises(UsageError, match="no pictures of class 'b'"):
        check_train_classes({"a": 1, "b": 0, "c": 2}, "train")
    with pytest.raises(UsageError, match="only class 'a'"):
        check_train_classes({"a": 1}, "train")
    with pytest.raises(UsageError, match="no class"):
        check_train_classes({}, "train")


def test_class_names_are_composed_and_printable() -> None:
    assert class_name("cafe\u0301", "x") == "caf\u00e9"
    for bad in ("a\nb", "\udce9", "\x1b[0m", " "):
        with pytest.raises(UsageError, match="not printable"):
            class_name(bad, "x")

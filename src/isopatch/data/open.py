"""Opening a data set for training or evaluation: splits cut where they are missing, bad files dealt with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isopatch.data.classmap import check_train_classes
from isopatch.data.find import find_data
from isopatch.data.source import DataSplits, ImageSource
from isopatch.data.sources.subset import Subset
from isopatch.data.split import nested_share, stratified_cut
from isopatch.data.stored import RawData, StoredSource, left_out_of
from isopatch.data.verify import unreadable
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.decode import MAX_PIXELS

TEST_FRACTION = 0.2  # cut from data without any split of its own

Indices = NDArray[np.int64]
Parts = dict[str, tuple[StoredSource, Indices]]  # role -> a source and the indices into it


def open_data(
    source: str | Path,
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    bad: str = "fail",
    max_pixels: int = MAX_PIXELS,
    test_fraction: float = TEST_FRACTION,
    fraction: float = 1.0,
    fraction_seed: int = 0,
    verify: Collection[str] = (),
) -> DataSplits:
    """Open `source` (see `find.find_data`) and return its three splits; `notes` says what was done.

    test_fraction: cut from data that has no splits at all (one tree of class folders, unnamed shards).
    val_fraction: cut from train where there is no validation split; 0 leaves `val` None. Both cuts are
        stratified and depend on `split_seed` and the order of the pictures alone.
    fraction: share of each class's training pictures that is used, taken after the cuts, which it does not
        change. For one `fraction_seed` a larger share contains every smaller one. See `split.nested_share`.
    bad: "fail": an unreadable picture raises `DecodeError` when it is read. "skip": every picture is read
        once now (see `verify.py`), the unreadable ones are left out and listed in `skipped`. Those that a
        pack was made without are left out and listed in either case.
    verify: roles whose pictures, and no others, are read once now, also where `bad` is "fail": those that a
        training would otherwise come to at its end.
    Raises `UsageError` for what the caller can mend, `IsopatchError` for unreadable pictures of these roles.
    """
    _check_share("data.val_fraction", val_fraction)
    _check_share("test_fraction", test_fraction)
    if not 0 < fraction <= 1:
        raise UsageError(f"data.fraction {fraction}: give a share above 0, at most 1")
    if bad not in ("fail", "skip"):
        raise UsageError(f"bad '{bad}': give fail or skip")
    raw = find_data(source, max_pixels=max_pixels)
    notes = list(raw.notes)
    parts = _cut(raw, val_fraction, test_fraction, split_seed, notes)
    if fraction < 1 and "train" in parts:
        parts["train"] = _share_of(parts["train"], fraction, fraction_seed, notes)
    skipped: dict[str, list[tuple[str, str]]] = {}
    packed_without = {role: left_out_of(base) for role, (base, _) in parts.items()}
    told = "could not be read when they were packed and are left out"
    parts = _without(parts, packed_without, told, str(source), skipped, notes)
    if bad == "skip":
        unread = {
            role: dict(unreadable(base, max_pixels=max_pixels, indices=indices))
            for role, (base, indices) in parts.items()
        }
        told = "cannot be read and were skipped"
        parts = _without(parts, unread, told, str(source), skipped, notes)
    for role, (base, indices) in parts.items():
        if bad == "fail" and role in verify:
            _require_readable(role, base, indices, max_pixels)
    splits: dict[str, ImageSource] = {
        role: base if len(indices) == len(base) else Subset(base, indices)
        for role, (base, indices) in parts.items()
    }
    return DataSplits(
        classes=raw.classes,
        train=splits.get("train"),
        val=splits.get("val"),
        test=splits.get("test"),
        notes=tuple(notes),
        skipped=skipped,
        cut=tuple(role for role in ("val", "test") if role in parts and role not in raw.roles()),
    )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"{name} {value}: give a share of the training pictures, at least 0 and less than 1")


def _cut(raw: RawData, val_fraction: float, test_fraction: float, seed: int, notes: list[str]) -> Parts:
    """Return role -> (source, indices into it), with test and val cut from train where they are missing."""
    parts = {role: (source, np.arange(len(source), dtype=np.int64)) for role, source in raw.roles().items()}
    if raw.pooled and test_fraction:
        _cut_one(parts, "test", test_fraction, seed, notes)
    if "train" in parts and "test" not in parts:
        notes.append("The data has no test split: no test accuracy can be reported.")
    if "train" in parts and "val" not in parts:
        if val_fraction:
            _cut_one(parts, "val", val_fraction, seed, notes)
        else:
            notes.append("No validation split: nothing is selected, the last checkpoint is the final one.")
    return parts


def _cut_one(parts: Parts, role: str, fraction: float, seed: int, notes: list[str]) -> None:
    source, indices = parts["train"]
    kept, cut = stratified_cut(source.labels[indices], fraction, seed, purpose=role)
    label = {"val": "validation", "test": "test"}[role]
    if not len(cut):
        notes.append(f"The data has no {label} split and every class too few pictures to cut one.")
        return
    parts["train"] = (source, indices[kept])
    parts[role] = (source, indices[cut])
    notes.append(
        f"The data has no {label} split: {len(cut):,} of {len(indices):,} training pictures "
        f"({fraction:.0%} of each class, seed {seed}) were set apart for it."
    )


def _share_of(
    train: tuple[StoredSource, Indices], fraction: float, seed: int, notes: list[str]
) -> tuple[StoredSource, Indices]:
    source, indices = train
    kept = indices[nested_share(source.labels[indices], indices, fraction, seed)]
    notes.append(
        f"Of {len(indices):,} training pictures {len(kept):,} are used ({fraction:.4g} of each class, "
        f"seed {seed})."
    )
    return source, kept


def _require_readable(role: str, source: StoredSource, indices: Indices, max_pixels: int) -> None:
    bad = unreadable(source, max_pixels=max_pixels, indices=indices)
    if bad:
        index, reason = bad[0]
        raise IsopatchError(
            f"{role}: {len(bad):,} of {len(indices):,} pictures cannot be read, the first is "
            f"{source.name(index)} ({reason}); mend or remove them, or leave them out with --bad skip"
        )


def _without(
    parts: Parts,
    reasons: Mapping[str, Mapping[int, str]],
    told: str,
    where: str,
    skipped: dict[str, list[tuple[str, str]]],
    notes: list[str],
) -> Parts:
    """Leave pictures out and add them to `skipped`; told: what the note says of them.

    reasons: role -> index into its source -> reason. The cut came first, so which split a picture is in does
        not change.
    """
    kept: Parts = {}
    for role, (source, indices) in parts.items():
        why = reasons[role]
        good = np.array([index for index in indices.tolist() if index not in why], dtype=np.int64)
        bad = [(source.name(index), why[index]) for index in indices.tolist() if index in why]
        kept[role] = (source, good)
        if not bad:
            continue
        skipped.setdefault(role, []).extend(bad)
        notes.append(f"{role}: {len(bad):,} of {len(indices):,} pictures {told}.")
        if not len(good):
            raise UsageError(f"{where}: none of the {len(indices)} pictures of {role} can be read")
        if role == "train":
            before = np.bincount(source.labels[indices], minlength=len(source.classes)).tolist()
            after = np.bincount(source.labels[good], minlength=len(source.classes)).tolist()
            named = zip(source.classes, before, after, strict=True)
            left_over = {name: left for name, had, left in named if had}
            check_train_classes(left_over, f"{where}, unreadable pictures skipped")
    return kept

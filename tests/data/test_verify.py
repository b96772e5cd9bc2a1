"""Which pictures are read ahead, what is remembered of it, and what is tried again."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isopatch.data.open import open_data
from isopatch.data.source import ImageSource
from isopatch.data.sources.folder import FolderSource, open_folder
from isopatch.data.verify import unreadable
from isopatch.errors import IsopatchError
from isopatch.image.decode import DecodeError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path, count: int) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / name / f"{index}.png")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """One tree of class folders, 2 x 10 pictures, of which every split is cut."""
    fill(tmp_path / "pool", 10)
    return tmp_path / "pool"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A train folder of 2 x 6 pictures and a val folder of 2 x 3."""
    fill(tmp_path / "data" / "train", 6)
    fill(tmp_path / "data" / "val", 3)
    return tmp_path / "data"


class Reads:
    """Every picture that was read, by name; those in `denied` cannot be for the time being."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.denied: set[str] = set()

    def since(self) -> Counter[str]:
        """Return the reads since the last call."""
        names, self.names = self.names, Counter()
        return names


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    recorded = Reads()
    real = FolderSource.read

    def recording(self: FolderSource, index: int) -> Image.Image:
        name = self.name(index)
        recorded.names[name] += 1
        if name in recorded.denied:
            raise DecodeError(name, "Permission denied")
        return real(self, index)

    monkeypatch.setattr(FolderSource, "read", recording)
    return recorded


def names(*sources: ImageSource | None) -> Counter[str]:
    return Counter(s.name(i) for s in sources if s is not None for i in range(len(s)))


def test_only_the_pictures_of_the_roles_asked_for_are_read(pool: Path, reads: Reads) -> None:
    splits = open_data(pool, verify=("val", "test"))
    assert splits.train is not None and len(splits.train) > 10
    assert reads.since() == names(splits.val, splits.test)
    open_data(pool, verify=("val", "test"))
    assert not reads.since()


def test_a_validation_split_cut_from_train_leaves_train_alone(tree: Path, reads: Reads) -> None:
    for file in (tree / "val").rglob("*.png"):
        file.unlink()
    for folder in (tree / "val" / "cat", tree / "val" / "dog", tree / "val"):
        folder.rmdir()
    splits = open_data(tree, val_fraction=0.3, verify=("val", "test"))
    assert len(splits.val or ()) == 4
    assert reads.since() == names(splits.val)


def test_what_a_partial_scan_did_not_see_is_still_read(pool: Path, reads: Reads) -> None:
    """A bad picture of train is neither found nor taken for readable while only val and test are read."""
    splits = open_data(pool, verify=("val", "test"))
    assert splits.train is not None
    seen = reads.since()
    bad = Path(splits.train.name(0))
    status = bad.stat()
    bad.write_bytes(bytes(status.st_size))
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))  # one state, so one entry of the cache
    skipping = open_data(pool, bad="skip")
    assert [name for name, _ in skipping.skipped["train"]] == [str(bad)]
    assert reads.since() == names(splits.train)  # val and test are known by now
    assert seen.keys().isdisjoint(names(splits.train))
    assert not open_data(pool, verify=("val", "test")).skipped
    assert not reads.since()


def test_a_bad_picture_of_the_cut_is_named_and_counted(pool: Path) -> None:
    val = open_data(pool).val
    assert val is not None
    Path(val.name(0)).write_bytes(b"rubbish")
    with pytest.raises(IsopatchError, match=rf"val: 1 of {len(val)} pictures cannot be read.*{val.name(0)}"):
        open_data(pool, verify=("val", "test"))
    open_data(pool, verify=("test",))  # not asked for


def test_indices_in_any_order_give_ascending_verdicts(pool: Path) -> None:
    source = open_folder(pool).train
    assert source is not None
    for index in (3, 7, 12):
        Path(source.name(index)).write_bytes(b"rubbish")
    chosen = np.array([12, 5, 3], dtype=np.int64)
    assert [index for index, _ in unreadable(source, max_pixels=100, indices=chosen)] == [3, 12]
    assert [index for index, _ in unreadable(source, max_pixels=100)] == [3, 7, 12]
    assert unreadable(source, max_pixels=100, indices=chosen[:0]) == []


@pytest.mark.parametrize("bad", ["fail", "skip"])
def test_a_picture_that_could_not_be_read_for_a_while_is_tried_again(
    bad: str, tree: Path, reads: Reads
) -> None:
    name = str(tree / "val" / "dog" / "1.png")
    reads.denied = {name}
    if bad == "fail":
        with pytest.raises(IsopatchError, match="Permission denied"):
            open_data(tree, bad=bad, verify=("val",))
    else:
        assert open_data(tree, bad=bad).skipped == {"val": [(name, "Permission denied")]}
    reads.since()
    reads.denied = set()  # neither the file's size nor its time has changed
    splits = open_data(tree, bad=bad, verify=("val",))
    assert splits.skipped == {} and len(splits.val or ()) == 6
    assert reads.since() == {name: 1}
    open_data(tree, bad=bad, verify=("val",))
    assert not reads.since()


def test_verification_happens_once_and_again_after_a_change(tree: Path, cache: Path, reads: Reads) -> None:
    bad = tree / "train" / "dog" / "3.png"
    bad.write_bytes(b"rubbish")
    first = open_data(tree, bad="skip")
    assert reads.since().total() == 18
    again = open_data(tree, bad="skip")
    assert reads.since() == {str(bad): 1} and again.skipped == first.skipped
    os.utime(tree / "train" / "cat" / "0.png", (1, 1))  # may be another picture now: train is read again
    open_data(tree, bad="skip")
    assert reads.since().total() == 12
    for file in (cache / "verified").iterdir():  # a damaged verdict is not believed
        file.write_bytes(file.read_bytes()[:-9])
    assert open_data(tree, bad="skip").skipped == first.skipped
    assert reads.since().total() == 18


@pytest.mark.parametrize(
    "kept", [b"[]", b"{}", b'{"pictures": 12, "readable": 1}', b'{"pictures": 12, "readable": "ff"}', b"\xff"]
)
def test_a_cache_that_holds_something_else_is_not_believed(
    kept: bytes, tree: Path, cache: Path, reads: Reads
) -> None:
    open_data(tree, verify=("val", "train"))
    reads.since()
    for file in (cache / "verified").iterdir():
        file.write_bytes(kept)
    open_data(tree, verify=("val", "train"))
    assert reads.since().total() == 18

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isopatch.data.memory import KeptSource, keep_in_memory
from isopatch.data.source import ImageSource, state_of
from isopatch.data.sources.digits import open_digits
from isopatch.data.sources.folder import open_folder
from isopatch.data.sources.relabel import relabel
from isopatch.data.sources.subset import Subset
from isopatch.data.summary import summarise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(6):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + index, 6), (index, 0, 0)).save(path)
    return tmp_path / "data"


def test_digits_are_scikit_learn_s() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    reference = sklearn.load_digits()
    raw = open_digits()
    assert raw.train is not None and raw.test is not None and raw.val is None
    seen = set()
    for source in (raw.train, raw.test):
        for index in range(len(source)):
            number = int(source.name(index).removeprefix("digits:"))
            seen.add(number)
            assert source.labels[index] == reference.target[number]
            image = source.read(index)
            assert image.mode == "RGB" and image.size == (8, 8)
            exact = reference.images[number] * 255 / 16
            assert np.abs(np.asarray(image)[..., 0] - exact).max() <= 0.5
    assert seen == set(range(1797))


def test_a_subset_is_a_view(folder: Path) -> None:
    source = open_folder(folder).train
    assert source is not None
    subset = Subset(source, np.array([4, 1], dtype=np.int64))
    assert len(subset) == 2 and subset.classes == source.classes
    assert subset.labels.tolist() == source.labels[[4, 1]].tolist()
    assert subset.name(0) == source.name(4)
    assert subset.read(1).tobytes() == source.read(1).tobytes()
    assert subset.stored(0) == source.stored(4)
    assert subset.fingerprint != source.fingerprint
    assert subset.fingerprint != Subset(source, np.array([1, 4], dtype=np.int64)).fingerprint


def test_a_folder_source_survives_being_sent_to_a_worker(folder: Path) -> None:
    source = open_folder(folder).train
    assert source is not None
    again = pickle.loads(pickle.dumps(source))
    assert [again.name(i) for i in range(len(again))] == [source.name(i) for i in range(len(source))]
    assert again.read(3).tobytes() == source.read(3).tobytes()


def test_moving_a_folder_keeps_its_fingerprint_and_a_new_label_changes_it(
    folder: Path, tmp_path: Path
) -> None:
    before = open_folder(folder).train
    folder.rename(tmp_path / "moved")
    after = open_folder(tmp_path / "moved").train
    assert before is not None and after is not None and before.fingerprint == after.fingerprint
    (tmp_path / "moved" / "a" / "0.png").rename(tmp_path / "moved" / "b" / "0.png")
    relabelled = open_folder(tmp_path / "moved").train
    assert relabelled is not None and relabelled.fingerprint != before.fingerprint


def replace_a_picture(path: Path) -> None:
    """Another picture of the same size in bytes, as a later write leaves it."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def views(root: Path) -> dict[str, ImageSource]:
    """Everything that a run may hold of the pictures in `root`."""
    source = open_folder(root).train
    assert source is not None
    subset = Subset(source, np.array([4, 1], dtype=np.int64))
    found = {"source": source, "subset": subset, "relabelled": relabel(source, ["b", "a"], where="here")}
    kept = {f"kept {name}": keep_in_memory(view, limit_mb=1) for name, view in found.items()}
    assert all(isinstance(view, KeptSource) for view in kept.values())
    return found | kept


def test_a_picture_replaced_by_one_of_the_same_size_is_noticed_by_the_state(tmp_path: Path) -> None:
    for index in range(6):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
    before, again = views(tmp_path / "data"), views(tmp_path / "data")
    replace_a_picture(tmp_path / "data" / "a" / "2.bmp")
    after = views(tmp_path / "data")
    for name, view in before.items():
        assert state_of(view) is not None, name
        assert state_of(again[name]) == state_of(view), name
        assert state_of(after[name]) != state_of(view), name
        assert after[name].fingerprint == view.fingerprint, name  # why the state is needed
    assert state_of(before["kept subset"]) == state_of(before["subset"]) != state_of(before["source"])


def test_a_picture_replaced_within_its_time_is_noticed_by_the_digest(tmp_path: Path) -> None:
    for index in range(6):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
    before = views(tmp_path / "data")["kept source"]
    path = tmp_path / "data" / "a" / "2.bmp"
    modified = path.stat().st_mtime_ns
    replace_a_picture(path)
    os.utime(path, ns=(modified, modified))
    after = views(tmp_path / "data")["kept source"]
    assert isinstance(before, KeptSource) and isinstance(after, KeptSource)
    assert state_of(after) == state_of(before)
    assert after.digest() != before.digest()


def test_a_source_without_a_state_has_none(folder: Path) -> None:
    class Stateless:
        classes = ("a", "b")
        labels = np.array([0, 1], dtype=np.int64)
        fingerprint = "f00"

        def __len__(self) -> int:
            return 2

        def name(self, index: int) -> str:
            return str(index)

        def read(self, index: int) -> Image.Image:
            return Image.new("RGB", (2, 2))

    assert state_of(Stateless()) is None
    assert state_of(keep_in_memory(Stateless(), limit_mb=1)) is None
    assert state_of(relabel(Stateless(), ["b", "a"], where="here")) is None


def test_summary_of_digits() -> None:
    summary = summarise("digits")
    assert (summary.num_images, summary.num_classes) == (1438, 10)
    assert (summary.median_height, summary.median_width) == (8, 8)
    assert summary.channels_grey and summary.fixed_size


def test_summary_of_mixed_pictures_passes_over_bad_ones(folder: Path) -> None:
    (folder / "a" / "0.png").write_bytes(b"rubbish")
    summary = summarise(folder)
    assert summary.num_images == 6 and summary.num_classes == 2
    assert summary.median_height == 6 and 5 <= summary.median_width <= 9
    assert not summary.channels_grey and not summary.fixed_size

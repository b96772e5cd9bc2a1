from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isopatch.data.open import open_data
from isopatch.data.sources import parquet
from isopatch.data.sources.parquet import ParquetSource, find_shards, open_parquet
from isopatch.data.stored import RawData
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.decode import DecodeError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog", "fox"]

# From 3.12 on Python warns of any fork of a process with threads, of which pyarrow has some.
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def write(
    path: Path,
    levels: Sequence[int],
    labels: Sequence[Any],
    *,
    names: list[str] | None = NAMES,
    struct: bool = True,
    columns: tuple[str, str] = ("image", "label"),
    label_type: Any = None,
    images: list[bytes | None] | None = None,
) -> None:
    """A Parquet file in which a picture's grey level says which row it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data: list[Any] = [png(level) for level in levels] if images is None else images
    if struct:
        cells: Any = pa.array(
            [{"bytes": d, "path": f"{i}.png"} for i, d in enumerate(data)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    else:
        cells = pa.array(data, pa.binary())
    table = pa.table({columns[0]: cells, columns[1]: pa.array(labels, label_type)})
    if names is not None:
        feature = {"names": names, "_type": "ClassLabel"}
        info = {"info": {"features": {columns[0]: {"_type": "Image"}, columns[1]: feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=4, compression="zstd")


def opened(root: Path) -> RawData:
    return open_parquet(root, find_shards(root))


def content(source: ParquetSource | Any) -> list[tuple[int, str]]:
    """(grey level, class name) of every row."""
    return [
        (source.read(i).getpixel((0, 0))[0], source.classes[source.labels[i]]) for i in range(len(source))
    ]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write(root / "train-00000-of-00002.parquet", range(10), [i % 3 for i in range(10)])
    write(root / "train-00001-of-00002.parquet", range(10, 17), [i % 3 for i in range(10, 17)])
    write(root / "test-00000-of-00001.parquet", range(100, 105), [2, 2, 1, 0, 1])
    return root


def test_pictures_labels_and_names_are_right(shards: Path) -> None:
    raw = opened(shards)
    assert raw.classes == tuple(NAMES) and not raw.pooled and raw.val is None
    assert raw.train is not None and raw.test is not None
    assert content(raw.train) == [(i, NAMES[i % 3]) for i in range(17)]
    assert content(raw.test) == [
        (100 + i, name) for i, name in enumerate(["fox", "fox", "dog", "cat", "dog"])
    ]
    assert raw.train.name(0) == "train-00000-of-00002.parquet:0"
    assert raw.train.name(9) == "train-00000-of-00002.parquet:9"
    assert raw.train.name(10) == "train-00001-of-00002.parquet:0"
    assert raw.train.stored(4) == png(4)


def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every conversion."""
    made: list[int] = []
    real = parquet.write_rows

    def counting(*arguments: Any) -> None:
        made.append(1)
        real(*arguments)

    monkeypatch.setattr(parquet, "write_rows", counting)
    return made


def test_the_conversion_happens_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = conversions(monkeypatch)
    first = opened(shards)
    assert len(made) == 2  # train and test
    again = opened(shards)
    assert len(made) == 2
    assert first.train is not None and again.train is not None
    assert content(again.train) == content(first.train)
    assert again.train.fingerprint == first.train.fingerprint


def test_a_changed_shard_is_converted_again(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(shards).test
    made = conversions(monkeypatch)
    write(shards / "test-00000-of-00001.parquet", range(100, 105), [2, 2, 1, 0, 0])
    after = opened(shards).test
    assert len(made) == 1
    assert before is not None and after is not None
    assert content(after)[-1] == (104, "cat") and after.fingerprint != before.fingerprint


def test_the_fingerprint_is_of_the_content(shards: Path, tmp_path: Path) -> None:
    here = opened(shards).train
    moved = tmp_path / "elsewhere"
    shards.rename(moved)
    for file in moved.iterdir():
        os.utime(file, (1, 1))
    there = opened(moved).train
    assert here is not None and there is not None and here.fingerprint == there.fingerprint


@pytest.mark.parametrize("name", ["data.bin", "labels.npy", "offsets.npy", "crc.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_cache_is_made_again(
    name: str, damage: str, shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(opened(shards).train)
    for pack in (cache / "parquet").iterdir():
        if pack.is_dir():
            file = pack / name
            if damage == "cut":
                file.write_bytes(file.read_bytes()[:-3])
            else:
                file.unlink()
    made = conversions(monkeypatch)
    assert content(opened(shards).train) == expected
    assert len(made) == 2


def test_every_flipped_bit_of_the_cache_is_noticed(shards: Path, cache: Path) -> None:
    """Either the pack is made again when opened, or reading the row raises and the next start makes it."""
    expected = content(opened(shards).train)
    random = np.random.default_rng(0)
    packs = [p for p in (cache / "parquet").iterdir() if p.is_dir() and p.suffix == ""]
    files = sorted(file for pack in packs for file in pack.iterdir())
    assert len(files) == 10
    noticed_when_read = 0
    for trial in range(60):
        file = files[trial % len(files)]
        data = bytearray(file.read_bytes())
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        file.write_bytes(bytes(data))
        try:
            result = content(opened(shards).train)
        except IsopatchError as error:
            assert "made again" in str(error)
            noticed_when_read += 1
            result = content(opened(shards).train)
        assert result == expected
    assert noticed_when_read > 0


@FORKS
def test_a_killed_conversion_leaves_nothing_that_counts(
    shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path, *_: Any) -> None:
        (folder / "data.bin").write_bytes(b"half")
        os._exit(9)

    process = os.fork()
    if process == 0:
        monkeypatch.setattr(parquet, "write_rows", killed)
        opened(shards)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    assert any(path.suffix == ".tmp" for path in (cache / "parquet").iterdir())
    assert len(opened(shards).train or ()) == 17
    assert not any(path.suffix in (".tmp", ".old") for path in (cache / "parquet").iterdir())


def test_a_full_disk_is_one_clear_line(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_rows", full)
    with pytest.raises(IsopatchError, match=r"No space left on device.*ISOPATCH_CACHE"):
        opened(shards)
    assert not any(path.is_dir() for path in (cache / "parquet").iterdir())


@FORKS
def test_forked_and_spawned_readers_see_the_same(shards: Path) -> None:
    source = opened(shards).train
    assert source is not None
    expected = [source.stored(i) for i in range(len(source))]
    for index in (3, 12):  # an open file shared by forks must not have a shared position
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                good = all(source.stored(i) == expected[i] for i in list(range(17)) * 20)
                os._exit(0 if good else 1)
            pids.append(pid)
        assert source.stored(index) == expected[index]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    again = pickle.loads(pickle.dumps(source))
    assert [again.stored(i) for i in range(17)] == expected


def test_unnamed_files_are_one_pool(tmp_path: Path) -> None:
    write(tmp_path / "pets.parquet", range(30), [i % 3 for i in range(30)])
    splits = open_data(tmp_path / "pets.parquet")
    assert [len(s or ()) for s in (splits.train, splits.val, splits.test)] == [21, 3, 6]
    assert any("no test split" in note for note in splits.notes)
    for source in (splits.train, splits.val, splits.test):
        assert all(name == NAMES[level % 3] for level, name in content(source))


def test_splits_by_folder(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("validation", 3)):
        write(tmp_path / split / "part-0.parquet", range(count), [i % 3 for i in range(count)])
    raw = opened(tmp_path)
    assert (len(raw.train or ()), len(raw.val or ()), raw.test) == (6, 3, None)


def test_the_hub_s_data_folder(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00001.parquet", range(4), [0, 1, 2, 0])
    assert len(opened(tmp_path).train or ()) == 4


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(UsageError, match=r"train-00000-of-00002\.parquet is missing"):
        opened(shards)
    only = shards / "train-00001-of-00002.parquet"  # asked for by itself, it is what is wanted
    assert len(open_parquet(only, find_shards(only)).train or ()) == 7


def test_a_file_of_no_split_beside_others_is_refused(shards: Path) -> None:
    write(shards / "more.parquet", [1], [0])
    with pytest.raises(UsageError, match=r"'more\.parquet' does not say which split"):
        opened(shards)


def test_two_data_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    for config in ("large", "small"):
        write(tmp_path / config / "train-00000-of-00001.parquet", [1, 2, 3], [0, 1, 2])
    with pytest.raises(UsageError, match="both hold shards of one split"):
        opened(tmp_path)


def test_other_layouts(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1, 2], [0, 1], struct=False, names=None, columns=("img", "labels"))
    raw = opened(tmp_path / "a.parquet")
    assert raw.classes == ("0", "1") and content(raw.train) == [(1, "0"), (2, "1")]


def test_bare_numbers_with_gaps_keep_their_names(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [1, 2, 3], [10, 2, 7], names=None)
    write(tmp_path / "test.parquet", [4, 5], [10, 7], names=None)
    raw = opened(tmp_path)
    assert raw.classes == ("2", "7", "10")
    assert content(raw.test) == [(4, "10"), (5, "7")]


def test_text_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [1, 2, 3], ["dog", "cat", "fox"], names=None)
    write(tmp_path / "test.parquet", [4, 5], ["fox", "cat"], names=None)
    raw = opened(tmp_path)
    assert raw.classes == ("cat", "dog", "fox")
    assert content(raw.train) == [(1, "dog"), (2, "cat"), (3, "fox")]
    assert content(raw.test) == [(4, "fox"), (5, "cat")]
    write(tmp_path / "test.parquet", [4, 5], ["fox", "cats"], names=None)
    with pytest.raises(UsageError, match=r"'cats' is not among train's classes \(did you mean 'cat'"):
        opened(tmp_path)


def test_class_names_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", range(3), [0, 1, 2])
    write(tmp_path / "test.parquet", range(3), [0, 1, 2], names=["fox", "cat", "dog"])
    raw = opened(tmp_path)
    assert content(raw.test) == [(0, "fox"), (1, "cat"), (2, "dog")]


def test_a_declared_class_without_rows_keeps_its_number(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", range(2), [0, 2])
    raw = opened(tmp_path)
    assert raw.classes == tuple(NAMES)
    assert raw.train is not None and raw.train.labels.tolist() == [0, 2]
    assert any("'dog'" in note for note in raw.notes)


def test_withheld_test_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", range(3), [0, 1, 2])
    write(tmp_path / "test.parquet", range(3), [-1, -1, -1])
    raw = opened(tmp_path)
    assert raw.test is None and any("withheld" in note for note in raw.notes)
    write(tmp_path / "test.parquet", range(3), [-1, 0, -1])
    with pytest.raises(UsageError, match="label -1"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [0, 1, 3]}, "label 3, but the class names are numbered 0..2"),
        ({"labels": [0, None, 1]}, "row 1 has no label"),
        ({"labels": [0.5, 1.0, 2.0], "names": None}, "holds double"),
        ({"labels": [0, 1, 2], "columns": ("image", "caption"), "names": None}, "no label column"),
        ({"labels": [0, 1, 2], "names": ["cat", "cat", "dog"]}, "same name"),
        ({"labels": [], "levels": []}, "no rows"),
        ({"labels": [1, 1, 1], "names": None}, "at least two classes"),
    ],
)
def test_what_cannot_be_labelled_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    options = {"levels": range(3), **options}
    if options["labels"] == []:
        options["label_type"] = pa.int64()
    write(tmp_path / "train.parquet", **options)
    with pytest.raises(UsageError) as caught:
        opened(tmp_path)
    assert message in str(caught.value)


def test_no_picture_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match="no picture column"):
        opened(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -20])
def test_a_damaged_parquet_file_is_one_clear_line(keep: int, shards: Path) -> None:
    path = shards / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=r"train-00000-of-00002\.parquet: not a readable Parquet file"):
        opened(shards)


def test_a_row_without_picture_is_a_bad_picture(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [], [0, 1, 2], images=[png(1), None, b"rubbish"])
    train = opened(tmp_path).train
    assert train is not None and train.read(0).size == (3, 2)
    with pytest.raises(DecodeError, match=r"train\.parquet:1: no picture is stored"):
        train.read(1)
    with pytest.raises(DecodeError, match=r"train\.parquet:2: not a picture"):
        train.read(2)
    write(tmp_path / "train.parquet", [], [0, 1, 2, 1], images=[png(1), None, b"rubbish", png(2)])
    with pytest.raises(UsageError, match="no pictures of class 'fox'"):
        open_data(tmp_path, val_fraction=0, bad="skip")


def test_cifar10(cache: Path) -> None:
    root = Path(os.environ.get("ISOPATCH_DATA", "/nowhere")) / "cifar10"
    if not root.is_dir():
        pytest.skip("ISOPATCH_DATA does not name a folder with cifar10")
    test = next(root.glob("test-*.parquet"))
    raw = open_parquet(test, [test])
    assert raw.train is None and raw.test is not None and len(raw.test) == 10_000
    assert raw.classes[0] == "airplane" and len(raw.classes) == 10
    table = pq.read_table(test)
    for row in (0, 4_321, 9_999):
        assert raw.test.stored(row) == table["image"][row].as_py()["bytes"]
        assert raw.test.labels[row] == table["label"][row].as_py()
        assert raw.test.read(row).size == (32, 32)

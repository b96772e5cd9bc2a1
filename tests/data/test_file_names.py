"""What the rows of Parquet files were called as files, through views of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isopatch.data.source import file_name_of
from isopatch.data.sources.parquet import ParquetSource, find_shards, open_parquet
from isopatch.data.sources.relabel import relabel
from isopatch.data.sources.subset import Subset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path: Path, images: list[Any], kind: Any) -> None:
    """A data set of two files of these rows; no picture of them is looked at."""
    path.mkdir()
    for number in range(2):
        rows = images[number::2]
        table = pa.table({"image": pa.array(rows, kind), "label": ["cat", "dog", "fox"][: len(rows)]})
        pq.write_table(table, path / f"train-0000{number}-of-00002.parquet")


def opened(path: Path) -> ParquetSource:
    train = open_parquet(path, find_shards(path)).train
    assert isinstance(train, ParquetSource)
    return train


def test_they_are_the_paths_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": b"x", "path": path} for path in ("a/0.png", "1.png", "", "3.png", None, "5.png")]
    write(tmp_path / "named", images, kind)
    for _ in range(2):  # the second time from the cache, which holds none
        train = opened(tmp_path / "named")
        names = [train.file_name(i) for i in range(6)]
        assert names == ["a/0.png", None, None, "1.png", "3.png", "5.png"]
        assert train.name(4) == "train-00001-of-00002.parquet:1"
    view = relabel(Subset(train, np.array([4, 0])), ("more", *train.classes), where="here")
    assert [file_name_of(view, i) for i in range(2)] == ["3.png", "a/0.png"]
    write(tmp_path / "plain", [b"x"] * 6, pa.binary())
    plain = opened(tmp_path / "plain")
    assert [plain.file_name(i) for i in range(6)] == [None] * 6

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isopatch.data.file_index import FileIndex
from isopatch.data.scan import scan_split
from isopatch.errors import UsageError


def put(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())


def names(root: Path) -> list[str]:
    scan = scan_split(root)
    return [os.fsdecode(scan.files[i]) for i in range(len(scan.files))]


def test_file_index_holds_names_in_little_memory() -> None:
    listed = [f"class_{i % 1000:04d}/picture_{i:08d}.jpg".encode() for i in range(20_000)]
    index = FileIndex(listed)
    assert len(index) == len(listed)
    assert [index[i] for i in (0, 1, 19_999, -1)] == [listed[i] for i in (0, 1, 19_999, -1)]
    assert index.nbytes / len(listed) < 120 - 8  # a label takes the other 8
    with pytest.raises(IndexError):
        index[20_000]


def test_order_is_by_class_then_by_bytes(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "b/10.png", "a-b/x.png", "a/z.png", "a/sub/c.png", "a/B.PNG")
    assert names(tmp_path) == ["a/B.PNG", "a/sub/c.png", "a/z.png", "a-b/x.png", "b/10.png", "b/2.png"]


def test_what_counts_as_a_picture(tmp_path: Path) -> None:
    put(tmp_path, "a/1.JpEg", "a/2.txt", "a/3", "a/.4.png", "a/5.heic", "a/6.tiff", ".hid/7.png", "8.png")
    put(tmp_path, "__MACOSX/a/1.png", "a/.ipynb_checkpoints/9.png", "a/Thumbs.db")
    scan = scan_split(tmp_path)
    assert names(tmp_path) == ["a/1.JpEg", "a/6.tiff"]
    assert scan.classes == ("a",)
    assert scan.left_out.hidden == 4
    assert scan.left_out.other == {".txt": 1, "(none)": 1, ".db": 1}
    assert scan.left_out.unread == [b"a/5.heic"]
    assert scan.left_out.loose == [b"8.png"]


def test_empty_class_folders_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "c/1.png")
    (tmp_path / "b").mkdir()
    scan = scan_split(tmp_path)
    assert scan.counts == {"a": 1, "b": 0, "c": 1}
    assert scan.labels.tolist() == [0, 2]


def test_names_that_are_no_text_or_look_odd_are_kept_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    odd = [b"caf\xe9.jpg", b"new\nline.jpg", b"-dash.jpg", b"quote'.jpg", b"x" * 251 + b".jpg"]
    for name in odd:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"a", name))).write_bytes(b"x")
    scan = scan_split(tmp_path)
    assert [scan.files[i] for i in range(len(scan.files))] == [b"a/" + name for name in sorted(odd)]


def test_composed_and_decomposed_names_of_one_class_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "caf\u00e9/1.png", "cafe\u0301/1.png")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system composes names by itself")
    with pytest.raises(UsageError, match="Unicode"):
        scan_split(tmp_path)


def test_links_are_followed_and_a_circle_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "real/1.png", "data/a/2.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "real")
    assert names(tmp_path / "data") == ["a/2.png", "b/1.png"]
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data" / "a")
    with pytest.raises(UsageError, match="leads back"):
        scan_split(tmp_path / "data")


def test_pipes_and_broken_links_are_listed_for_the_decoder_to_refuse(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    (tmp_path / "a" / "3.png").symlink_to("gone.png")
    (tmp_path / "a" / "4.png").symlink_to("4.png")
    assert names(tmp_path) == ["a/1.png", "a/2.png", "a/3.png", "a/4.png"]


def test_fingerprint_is_of_names_and_sizes_and_state_of_times_too(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    before = scan_split(tmp_path)
    os.utime(tmp_path / "a" / "1.png", (1, 1))
    touched = scan_split(tmp_path)
    assert touched.fingerprint == before.fingerprint and touched.state != before.state
    (tmp_path / "a" / "1.png").write_bytes(b"another size")
    assert scan_split(tmp_path).fingerprint != before.fingerprint
    put(tmp_path, "a/1.png")
    assert scan_split(tmp_path).fingerprint == before.fingerprint
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "3.png")
    assert scan_split(tmp_path).fingerprint != before.fingerprint

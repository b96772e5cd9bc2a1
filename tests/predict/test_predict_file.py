"""Predictions into files: each input once, whatever interrupts; another model's file is refused."""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.predict import Predictor
from isopatch.predict_file import predict_to_file
from isopatch.predict_rows import read_predictions

FORMATS = (".csv", ".jsonl", ".parquet")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five files: three pictures, one of them oddly named, and two that are none."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", 'b,"quoted".png', "c\nline.png"):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name, format="PNG")
    (folder / "d.txt").write_text("text")
    (folder / "e.png").touch()
    return folder


def rows(out: Path) -> dict[str, tuple[tuple[str, ...], str | None]]:
    """File -> (labels, error), each path once."""
    found = {}
    for row in read_predictions(out):
        assert row.path not in found, "a path has two rows"
        found[row.path] = (row.labels, row.error)
    return found


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_input_gets_one_row(
    predictor: Predictor, pictures: Path, tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "new" / f"out{suffix}"
    seen: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING, "isopatch"):
        summary = predict_to_file(predictor, [pictures], out, progress=lambda *done: seen.append(done))
    files = sorted(str(path) for path in pictures.iterdir())
    assert sorted(rows(out)) == files
    direct = {result.path: (result.labels, result.error) for result in predictor(files)}
    assert rows(out) == direct
    counts = {"inputs": 5, "done": 3, "skipped": 0, "unreadable": 2, "rows": 5, "unreadable_rows": 2}
    assert summary == {"out": str(out), **counts}
    assert seen == [(done, 5) for done in range(1, 6)]
    assert len(caplog.messages) == 2
    assert "d.txt: " in caplog.text
    assert "e.png: " in caplog.text
    left = {path.name for path in out.parent.iterdir()}
    assert left == {out.name, out.name + ".meta.json"}


def test_csv_is_what_a_spreadsheet_reads(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    predict_to_file(predictor, [pictures], out)
    text = out.read_text(encoding="utf-8")
    assert text.count("\n") == 6  # one line a row, whatever the names hold
    table = list(csv.DictReader(text.splitlines()))
    assert list(table[0]) == ["path", "label", "probability", "label_2", "probability_2", "error"]
    assert 0 < float(table[0]["probability_2"]) <= float(table[0]["probability"]) <= 1
    assert table[1]["path"].endswith('b,"quoted".png')
    assert table[2]["path"].endswith(r"c\x0aline.png")
    assert table[3]["error"]
    assert not table[3]["label"]


def test_jsonl_and_parquet_hold_the_same(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    for suffix in (".jsonl", ".parquet"):
        predict_to_file(predictor, [pictures], tmp_path / f"out{suffix}")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [line["path"] for line in lines] == [row["path"] for row in table]
    assert lines[0]["labels"] == [table[0]["label"], table[0]["label_2"]]
    assert lines[0]["probabilities"] == [table[0]["probability"], table[0]["probability_2"]]
    assert lines[0]["error"] is table[0]["error"] is None


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_continued_after_a_cut_at_any_byte(
    predictor: Predictor, pictures: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    predict_to_file(predictor, [pictures], out)
    whole, expected = out.read_bytes(), rows(out)
    # Every byte of the last two rows and of the start, where headers and first rows are torn.
    cuts = {*range(0, 90), *range(len(whole) - 140, len(whole) + 1)}
    for cut in sorted(cuts):
        out.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n") - (suffix == ".csv" and cut > 0)
        summary = predict_to_file(predictor, [pictures], out)
        assert rows(out) == expected, cut
        assert summary["skipped"] == max(0, complete), cut


def test_parquet_is_continued_and_added_to(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "out.parquet", tmp_path / "out.parquet.partial.jsonl"
    predict_to_file(predictor, [pictures / "a.png", pictures / "e.png"], out)
    summary = predict_to_file(predictor, [pictures], out)  # finished, then asked for more
    assert (summary["skipped"], summary["done"], summary["rows"]) == (2, 2, 5)
    expected = rows(out)
    assert len(expected) == 5
    # Killed before the conversion: the partial file is all there is, torn.
    predict_to_file(predictor, [pictures], tmp_path / "copy.jsonl")
    partial.write_bytes((tmp_path / "copy.jsonl").read_bytes()[:-20])
    out.unlink()
    assert predict_to_file(predictor, [pictures], out)["skipped"] == 4
    assert rows(out) == expected
    # Killed between the rename and the removal of the partial file.
    partial.write_bytes((tmp_path / "copy.jsonl").read_bytes())
    assert predict_to_file(predictor, [pictures], out)["skipped"] == 5
    assert rows(out) == expected
    assert not partial.exists()


def test_relative_and_absolute_paths_are_one_input(
    predictor: Predictor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    out = tmp_path / "out.csv"
    predict_to_file(predictor, ["a.png"], out)
    summary = predict_to_file(predictor, ["./a.png", pictures / "a.png", "../in/a.png"], out)
    assert (summary["inputs"], summary["skipped"], summary["rows"]) == (1, 1, 1)


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_input_once_from_any_folder(
    predictor: Predictor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((pictures / 'b,"quoted".png').read_bytes())  # another picture, same name
    out = tmp_path / f"out{suffix}"
    monkeypatch.chdir(pictures)
    predict_to_file(predictor, ["a.png", "./e.png"], out)
    monkeypatch.chdir(other)
    summary = predict_to_file(predictor, ["a.png", "../in/a.png", pictures / "d.txt"], out)
    assert (summary["inputs"], summary["skipped"], summary["done"], summary["unreadable"]) == (3, 1, 1, 1)
    monkeypatch.chdir(tmp_path)
    assert (
        predict_to_file(predictor, ["in/a.png", "other/a.png", "in/d.txt", "in/e.png"], out)["skipped"] == 4
    )
    # Relative paths start in the folder of the beginning; absolute ones stay what they were.
    assert list(rows(out)) == ["a.png", "./e.png", "../other/a.png", str(pictures / "d.txt")]
    for row in read_predictions(out):
        direct = predictor(pictures / row.path)
        assert (row.labels, row.error) == (direct.labels, direct.error)
    assert json.loads((tmp_path / f"out{suffix}.meta.json").read_text())["folder"] == str(pictures)


def test_a_new_file_of_the_same_name_begins_in_its_own_folder(
    predictor: Predictor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    monkeypatch.chdir(pictures)
    predict_to_file(predictor, ["a.png"], out)
    out.unlink()
    monkeypatch.chdir(tmp_path)
    assert predict_to_file(predictor, ["in/a.png"], out)["done"] == 1
    assert list(rows(out)) == ["in/a.png"]


def test_a_sidecar_without_a_folder_is_damaged(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out, meta = tmp_path / "out.csv", tmp_path / "out.csv.meta.json"
    predict_to_file(predictor, [pictures], out)
    stored = json.loads(meta.read_text())
    for folder in (None, "in", 3):
        meta.write_text(json.dumps({**stored, "folder": folder}))
        with pytest.raises(UsageError, match="damaged"):
            predict_to_file(predictor, [pictures], out)


def test_formulas_are_disarmed_and_read_back(
    predictor: Predictor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["=cmd().png", "+1.png", "-2.png", "@SUM.png", "\ttab.png", "'quote.png"]
    for name in names:
        (pictures / name).write_bytes((pictures / "a.png").read_bytes())
    monkeypatch.chdir(pictures)
    out = tmp_path / "out.csv"
    predictor.classes = ("=1+1", "+a", "-b", "@c", "'d", "\te")
    predict_to_file(predictor, names, out)
    with out.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    direct = {result.path: (result.labels, None) for result in predictor(names)}
    assert rows(out) == direct
    assert predict_to_file(predictor, names, out)["skipped"] == len(names)
    # The negative control: the names are such that plain writing would start a formula.
    assert any(name.startswith("=") for name in names)


def test_names_that_are_not_utf8(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    odd = os.path.join(os.fsencode(pictures), b"caf\xe9.png")
    with open(odd, "wb") as file:
        file.write((pictures / "a.png").read_bytes())
    literal = pictures / r"caf\udce9.png"  # the escape of the other, spelt out
    literal.write_bytes((pictures / "a.png").read_bytes())
    for suffix in FORMATS:
        out = tmp_path / f"out{suffix}"
        predict_to_file(predictor, [pictures], out)
        if suffix == ".csv":
            assert r"caf\udce9.png" in out.read_bytes().decode("utf-8")
        assert {os.fsdecode(odd), str(literal)} <= set(rows(out))
        assert predict_to_file(predictor, [pictures], out)["skipped"] == 7


def test_the_output_is_not_its_own_input(predictor: Predictor, pictures: Path) -> None:
    out = pictures / "out.csv"
    assert predict_to_file(predictor, [pictures], out)["inputs"] == 5
    assert predict_to_file(predictor, [pictures], out)["inputs"] == 5
    assert len(rows(out)) == 5


@pytest.mark.parametrize("suffix", FORMATS)
def test_another_models_file_is_refused(
    predictor: Predictor, model_folder: Path, pictures: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    predict_to_file(predictor, [pictures], out)
    before = out.read_bytes()
    model = load(model_folder)
    torch.nn.init.normal_(next(iter(model.heads.parameters())))
    save_model(tmp_path / "other", model)
    other = Predictor(tmp_path / "other", top_k=2)
    with pytest.raises(UsageError, match=r"written with another weights; .*delete it and out\S+meta\.json"):
        predict_to_file(other, [pictures], out)
    with pytest.raises(UsageError, match="another top_k"):
        predict_to_file(Predictor(model_folder, top_k=3), [pictures], out)
    (tmp_path / f"out{suffix}.meta.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        predict_to_file(predictor, [pictures], out)
    (tmp_path / f"out{suffix}.meta.json").unlink()
    with pytest.raises(UsageError, match="without"):
        predict_to_file(predictor, [pictures], out)
    assert out.read_bytes() == before
    out.unlink()
    assert predict_to_file(other, [pictures], out)["rows"] == 5


def test_a_damaged_row_is_named(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    predict_to_file(predictor, [pictures], out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([lines[0], lines[1][:9] + b"\n", *lines[2:]]))
    with pytest.raises(IsopatchError, match=r"out\.jsonl: line 2 is damaged"):
        predict_to_file(predictor, [pictures], out)


def test_two_processes_do_not_share_a_file(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with (tmp_path / ".out.csv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            predict_to_file(predictor, [pictures], out)
    assert predict_to_file(predictor, [pictures], out)["rows"] == 5


def test_nothing_readable_is_a_failure(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(IsopatchError, match="none of the 2 inputs") as caught:
        predict_to_file(predictor, [pictures / "d.txt", pictures / "e.png"], out)
    assert caught.value.exit_code == 1
    assert len(rows(out)) == 2
    assert predict_to_file(predictor, [pictures], out)["done"] == 3


def test_a_full_disk_keeps_the_rows(predictor: Predictor, pictures: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    out = pictures.parent / "out.csv"
    out.symlink_to("/dev/full")
    with pytest.raises(IsopatchError, match="No space left on device; the rows so far are kept"):
        predict_to_file(predictor, [pictures], out)


@pytest.mark.parametrize(("name", "message"), [("out.txt", "choose one of these"), ("in.csv", "is a folder")])
def test_impossible_files_are_refused(
    predictor: Predictor, pictures: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "in.csv").mkdir()
    with pytest.raises(UsageError, match=message):
        predict_to_file(predictor, [pictures], tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write here"):
        predict_to_file(predictor, [pictures], tmp_path / "file" / "out.csv")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_killed_at_random_each_input_once(model_folder: Path, tmp_path: Path, suffix: str) -> None:
    """SIGKILL at random moments after the first row, until a process gets through."""
    folder, out = tmp_path / "in", tmp_path / f"out{suffix}"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3000):
        side = int(rng.integers(8, 300))
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    data = os.environ.get("ISOPATCH_DATA")
    inputs = [str(folder), *([f"{data}/odd-images"] if data else [])]
    program = (
        "import sys; from pathlib import Path; from isopatch.predict import Predictor;"
        "from isopatch.predict_file import predict_to_file;"
        "predict_to_file(Predictor(sys.argv[1], top_k=2), sys.argv[3:], Path(sys.argv[2]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(model_folder), str(out), *inputs]
    growing = out if suffix != ".parquet" else tmp_path / "out.parquet.partial.jsonl"
    chance, kills = random.Random(0), 0
    while True:
        size = growing.stat().st_size if growing.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not growing.exists() or growing.stat().st_size <= size):
            time.sleep(0.01)
        if kills < 8:
            time.sleep(chance.random() * 0.3)
            process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if growing.exists():
            list(read_predictions(growing))  # valid at every instant
        if process.returncode == 0:
            break
    assert kills >= 3
    assert len(rows(out)) == sum(len(files) for folder in inputs for _, _, files in os.walk(folder))

"""Packs: the same pictures in the same order, checked, whole or not there at all."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isopatch.cli import main
from isopatch.data import pack_files, packing
from isopatch.data.augment import TrainTransform
from isopatch.data.check import check_data
from isopatch.data.loader import TrainLoader
from isopatch.data.open import open_data
from isopatch.data.packing import pack_data, resized
from isopatch.data.sampler import EpochSampler
from isopatch.data.source import picture_of
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.contract import InputContract
from isopatch.image.decode import DecodeError
from isopatch.training.config import AugmentConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))


def photograph(seed, width, height):
    rng = np.random.default_rng(seed)
    grey = np.linspace(0, 180, width)[None, :, None] + rng.integers(0, 56, (height, width, 1))
    return Image.fromarray((grey + np.array([0, 9, 19])).astype(np.uint8))


@pytest.fixture
def tree(tmp_path):
    """Class folders with JPEG and PNG files, one turned by EXIF, larger and smaller than 32 pixels."""
    root = tmp_path / "photos"
    seed = 0
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for name in ("cat", "dög"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed += 1
                image = photograph(seed, 30 + 7 * index, 41)
                if index == 1:
                    image.save(folder / f"{index}.png")
                elif index == 2:
                    exif = Image.Exif()
                    exif[0x0112] = 6
                    image.save(folder / f"{index}.jpg", exif=exif)
                else:
                    image.save(folder / f"{index}.jpg", quality=90)
    return root


def sources(data):
    splits = open_data(data)
    return {"train": splits.train, "val": splits.val, "test": splits.test}


@pytest.mark.parametrize("store", ["raw", "jpeg"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pack_is_the_source_resized(tree, tmp_path, store, workers):
    result = pack_data(tree, tmp_path / "pack", short_side=32, store=store, workers=workers)
    assert result["splits"] == {"train": 12, "val": 4, "test": 6}
    before, after = sources(tree), sources(tmp_path / "pack")
    for role, source in before.items():
        packed = after[role]
        assert packed.classes == source.classes == ("cat", "dög")
        np.testing.assert_array_equal(packed.labels, source.labels)
        for index in range(len(source)):
            assert packed.name(index).removeprefix(f"{tmp_path / 'pack'}:") == os.path.relpath(
                source.name(index), tree
            )
            image = source.read(index)
            size = resized(image.size, 32)
            expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
            got = np.asarray(packed.read(index))
            assert got.shape == expected.shape
            if store == "raw":
                np.testing.assert_array_equal(got, expected)
            else:
                assert np.abs(got.astype(int) - expected).mean() < 6
            np.testing.assert_array_equal(np.asarray(picture_of(packed, index)), got)


def test_the_shorter_side_is_met_and_nothing_is_enlarged():
    assert resized((500, 375), 256) == (341, 256)
    assert resized((375, 500), 256) == (256, 341)
    assert resized((256, 9000), 256) == (256, 9000)
    assert resized((100, 200), 256) == (100, 200)


def test_jpeg_files_that_need_no_change_are_stored_as_they_are(tree, tmp_path):
    result = pack_data(tree, tmp_path / "pack", short_side=100, store="jpeg")
    before, after = sources(tree)["train"], sources(tmp_path / "pack")["train"]
    untouched = 0
    for index in range(len(before)):
        file = Path(before.stored(index)).read_bytes()
        if Path(before.stored(index)).name not in ("1.png", "2.jpg"):  # no JPEG; turned by EXIF
            assert after.stored(index) == file
            untouched += 1
        else:
            assert after.stored(index) != file
            assert after.read(index).size == before.read(index).size
    assert untouched == 8 and result["as_they_were"] >= untouched


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_training_sees_the_same_from_a_pack_that_changed_nothing(tree, tmp_path, store):
    """Every picture is a plain JPEG below the limit: batches from folder and pack are equal to the bit."""
    for odd in (*tree.rglob("1.png"), *tree.rglob("2.jpg")):
        odd.unlink()
    pack_data(tree, tmp_path / "pack", short_side=100, store=store)
    transform = TrainTransform(AugmentConfig(), InputContract(height=24, width=24))
    batches = []
    for data in (tree, tmp_path / "pack"):
        train = sources(data)["train"]
        sampler = EpochSampler(len(train), global_batch=4, data_seed=3, repeats=2)
        loader = TrainLoader(train, transform, sampler, workers=0, data_seed=3, start=0, stop=6)
        batches.append([(b.images.numpy().tobytes(), b.labels.tolist(), b.indices.tolist()) for b in loader])
    assert batches[0] == batches[1]


def test_a_cut_by_seed_is_the_same_cut(tmp_path):
    pooled = tmp_path / "pool"
    for name in ("a", "b"):
        (pooled / name).mkdir(parents=True)
        for index in range(20):
            photograph(index, 12, 12).save(pooled / name / f"{index}.png")
    pack_data(pooled, tmp_path / "pack")
    before, after = open_data(pooled), open_data(tmp_path / "pack")
    assert before.cut == after.cut == ("val", "test")
    for role in ("train", "val", "test"):
        ours, theirs = getattr(after, role), getattr(before, role)
        names = [ours.name(i).partition(":")[2] for i in range(len(ours))]
        assert names == [os.path.relpath(theirs.name(i), pooled) for i in range(len(theirs))]


def test_digits_can_be_packed(tmp_path):
    pack_data("digits", tmp_path / "pack")
    before, after = open_data("digits").train, open_data(tmp_path / "pack").train
    assert len(before) == len(after)
    np.testing.assert_array_equal(np.asarray(before.read(5)), np.asarray(after.read(5)))


def test_fingerprints_tell_contents_apart(tree, tmp_path):
    prints = set()
    for number, options in enumerate(({}, {"short_side": 32}, {"store": "jpeg"}, {})):
        pack_data(tree, tmp_path / f"pack{number}", **options)
        prints.add(sources(tmp_path / f"pack{number}")["train"].fingerprint)
    assert len(prints) == 3  # the first and the last are equal
    made_from = json.loads((tmp_path / "pack0" / "pack.json").read_text())["pack"]["made_from"]
    assert made_from["fingerprints"]["train"] == sources(tree)["train"].fingerprint


def test_a_source_can_be_sent_to_another_process(tree, tmp_path):
    pack_data(tree, tmp_path / "pack")
    train = sources(tmp_path / "pack")["train"]
    first = np.asarray(train.read(0))
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(train)).read(0)), first)


# --- damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_changed_byte_is_found_and_named(tree, tmp_path, store):
    pack_data(tree, tmp_path / "pack", store=store)
    shard = tmp_path / "pack" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    train = sources(tmp_path / "pack")["train"]
    damaged = []
    for index in range(len(train)):
        try:
            train.picture(index)
        except DecodeError as error:
            damaged.append(str(error))
    assert len(damaged) == 1
    assert "train/" in damaged[0] and "checksum" in damaged[0] and "\n" not in damaged[0]
    report = check_data(tmp_path / "pack")
    assert (report["readable"], report["unreadable"]) == (21, 1)
    assert "checksum" in report["unreadable_files"][0]["reason"]
    skipping = open_data(tmp_path / "pack", bad="skip")
    assert len(skipping.train) == 11 and len(skipping.skipped["train"]) == 1


def test_without_the_checksum_a_changed_pixel_would_pass(tree, tmp_path):
    pack_data(tree, tmp_path / "pack")
    shard = tmp_path / "pack" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 4
    shard.write_bytes(content)
    train = sources(tmp_path / "pack")["train"]
    train._verified[:] = True
    for index in range(len(train)):
        train.read(index)


@pytest.mark.parametrize("what", ["shorter", "longer", "missing", "index", "index of a split", "no split"])
def test_other_damage_is_refused_when_opened(tree, tmp_path, what):
    pack = tmp_path / "pack"
    pack_data(tree, pack)
    shard, index, rows = pack / "train-00000.bin", pack / "pack.json", pack / "val.npz"
    if what == "shorter":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif what == "longer":
        shard.write_bytes(shard.read_bytes() + b"x")
    elif what == "missing":
        shard.unlink()
    elif what == "index":
        index.write_text(index.read_text().replace("cat", "cow"))
    elif what == "index of a split":
        content = bytearray(rows.read_bytes())
        content[len(content) // 2] ^= 1
        rows.write_bytes(content)
    else:
        rows.unlink()
    with pytest.raises(IsopatchError, match="pack the data again") as error:
        open_data(pack)
    assert str(pack) in str(error.value) and "\n" not in str(error.value)


# --- writing --------------------------------------------------------------------------------------------


def test_what_is_there_is_not_replaced_unasked(tree, tmp_path):
    pack = tmp_path / "pack"
    pack_data(tree, pack)
    before = sources(pack)["train"].fingerprint
    with pytest.raises(UsageError, match="--overwrite"):
        pack_data(tree, pack, short_side=16)
    assert sources(pack)["train"].fingerprint == before
    pack_data(tree, pack, short_side=16, overwrite=True)
    assert sources(pack)["train"].fingerprint != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(UsageError, match="not a pack"):
        pack_data(tree, tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="does not exist"):
        pack_data(tree, tmp_path / "no" / "such")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "pack", "photos"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tree, tmp_path, monkeypatch, capsys):
    def full(self, picture):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pack_files.ShardWriter, "add", full)
    assert main(["data", "pack", str(tree), str(tmp_path / "pack")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "No space left" in lines[0] and "--store jpeg" in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_bad_picture_stops_or_is_counted(tree, tmp_path, capsys):
    (tree / "train" / "cat" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(DecodeError, match=r"cat/0\.jpg"):
        pack_data(tree, tmp_path / "pack")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    assert main(["data", "pack", str(tree), str(tmp_path / "pack"), "--bad", "skip"]) == 0
    assert "train/cat/0.jpg: not a picture" in capsys.readouterr().out
    assert len(sources(tmp_path / "pack")["train"]) == 11


def test_a_killed_packing_leaves_nothing_that_opens(tree, tmp_path):
    script = (
        "import time\n"
        "from isopatch.data import pack_files\n"
        "from isopatch.data.packing import pack_data\n"
        "real = pack_files.ShardWriter.add\n"
        "def slow(self, picture):\n"
        "    real(self, picture)\n"
        "    print('one', flush=True)\n"
        "    time.sleep(0.3)\n"
        "pack_files.ShardWriter.add = slow\n"
        f"pack_data({str(tree)!r}, {str(tmp_path / 'pack')!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert child.stdout.readline() == b"one\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "pack").exists()
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".pack.packing")]) == 1
    time.sleep(0.01)
    pack_data(tree, tmp_path / "pack")  # removes what the killed one left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pack", "photos"]


# --- the command line -----------------------------------------------------------------------------------


def test_train_and_eval_take_a_pack(tree, tmp_path, capsys):
    pack, run = tmp_path / "pack", tmp_path / "run"
    assert main(["data", "pack", str(tree), str(pack), "--short-side", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"] == 12
    size = ["--model", "convmixer", "--model.dim", "8", "--model.depth", "1", "--model.kernel_size", "3"]
    size += ["--model.patch_size", "4", "--model.image_size", "16", "--recipe", "small", "--batch_size", "4"]
    assert main(["train", "--data", str(pack), "--out", str(run), "--epochs", "1", *size]) == 0
    assert main(["eval", str(run), "--data", str(pack), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""]))["num_images"] == 6
    assert main(["data", "check", str(pack)]) == 0
    capsys.readouterr()
    assert main(["predict", str(run), str(pack)]) == 2
    assert "a pack, whose pictures are no files" in capsys.readouterr().err


def test_odd_pictures_follow_the_one_decode_function(tmp_path):
    root = Path(os.environ.get("ISOPATCH_DATA", "/nowhere")) / "odd-images"
    if not root.is_dir():
        pytest.skip("ISOPATCH_DATA does not name a folder with odd-images")
    suffixes = (".png", ".jpg", ".tif", ".gif", ".bmp", ".webp")
    files = sorted(path for path in root.rglob("*") if path.suffix in suffixes and path.is_file())[::12]
    for number, path in enumerate(files):
        folder = tmp_path / "odd" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        os.symlink(path, folder / f"{number:04d}{path.suffix}")
    pack_data(tmp_path / "odd", tmp_path / "pack", short_side=10_000, bad="skip", workers=0)
    before = open_data(tmp_path / "odd", val_fraction=0, test_fraction=0, bad="skip").train
    after = open_data(tmp_path / "pack", val_fraction=0, test_fraction=0).train
    assert len(before) == len(after) > 20
    for index in range(len(before)):
        np.testing.assert_array_equal(np.asarray(after.read(index)), np.asarray(before.read(index)))


def test_the_constants_agree_with_the_command_line():
    from isopatch.cli.parser import parse

    arguments = parse(["data", "pack", "a", "b"])
    assert (arguments.short_side, arguments.quality) == (packing.SHORT_SIDE, packing.QUALITY)


def test_quality_is_at_most_100(tree, tmp_path, capsys):
    command = ["data", "pack", str(tree), str(tmp_path / "pack"), "--store", "jpeg", "--quality"]
    assert main([*command, "200"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "--quality" in lines[0] and "200 is above 100" in lines[0]
    for quality in (0, 101):
        with pytest.raises(UsageError, match=f"quality {quality}: give a whole number from 1 to 100"):
            pack_data(tree, tmp_path / "pack", store="jpeg", quality=quality)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    assert main([*command, "100"]) == 0

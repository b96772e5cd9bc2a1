"""Shards that change, go away or are cut short after a pack was opened or verified."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from isopatch.data.augment import TrainTransform
from isopatch.data.loader import TrainLoader
from isopatch.data.open import open_data
from isopatch.data.packing import pack_data
from isopatch.data.sampler import EpochSampler
from isopatch.data.source import state_of
from isopatch.data.sources.pack import PackSource, open_pack
from isopatch.errors import IsopatchError
from isopatch.image.contract import InputContract
from isopatch.image.decode import DecodeError
from isopatch.training.config import AugmentConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["raw", "jpeg"])
def pack(tmp_path, request):
    """2 x 6 training pictures and 2 x 2 for validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in "ab":
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    pack_data(tmp_path / "data", tmp_path / "pack", store=request.param)
    return tmp_path / "pack"


@pytest.fixture
def reads(monkeypatch):
    """The names of all pictures that were read since they were looked at last."""
    names = []
    real = PackSource.read

    def recording(self, index):
        names.append(self.name(index).partition(":")[2])
        return real(self, index)

    monkeypatch.setattr(PackSource, "read", recording)
    return names


def flip_a_byte(shard):
    """Change the middle of a shard; its time moves on, however coarse the file system's clock is."""
    status = shard.stat()
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def test_damage_after_the_pictures_were_verified_is_seen_at_the_next_start(pack, reads):
    assert open_data(pack, bad="skip").skipped == {}
    assert len(reads) == 16
    reads.clear()
    assert open_data(pack, bad="skip").skipped == {}
    assert reads == []  # the control: what did not change is not read again
    flip_a_byte(pack / "train-00000.bin")
    splits = open_data(pack, bad="skip")
    (name, reason), *others = splits.skipped["train"]
    assert not others and "train/" in name and "checksum" in reason and len(splits.train) == 11
    assert len(reads) == 12 and all(name.startswith("train/") for name in reads)  # val's shard is untouched
    with pytest.raises(IsopatchError, match="train: 1 of 12 pictures cannot be read"):
        open_data(pack, verify=("train",))


def test_the_state_tells_of_a_changed_shard_and_the_fingerprint_of_the_content(pack):
    before, again = open_pack(pack), open_pack(pack)
    flip_a_byte(pack / "train-00000.bin")
    after = open_pack(pack)
    assert state_of(again.train) == state_of(before.train) != state_of(after.train)
    assert state_of(after.val) == state_of(before.val)
    assert after.train.fingerprint == before.train.fingerprint
    assert state_of(before.train) != before.train.fingerprint


@pytest.mark.parametrize("what", ["missing", "shorter", "longer", "empty", "a folder"])
def test_a_shard_that_changed_while_the_pack_is_open_is_named(pack, what):
    raw = open_pack(pack)
    train, val, sent = raw.train, raw.val, pickle.dumps(raw.train)
    shard = pack / "train-00000.bin"
    content = shard.read_bytes()
    shard.unlink()
    if what == "a folder":
        shard.mkdir()
    elif what != "missing":
        shard.write_bytes({"shorter": content[:-1], "longer": content + b"x", "empty": b""}[what])
    for source in (train, pickle.loads(sent)):
        for read in (source.read, source.picture, source.stored):
            with pytest.raises(IsopatchError, match="bring it back, or pack the data again") as error:
                read(0)
            assert not isinstance(error.value, DecodeError)  # or skipping would leave every picture out
            assert str(shard) in str(error.value) and "\n" not in str(error.value)
    assert val.read(0).size == (9, 7)
    if what == "a folder":
        shard.rmdir()
    else:
        shard.unlink(missing_ok=True)
    shard.write_bytes(content)
    assert train.read(0).size == (9, 7)  # the control: it was brought back


@pytest.mark.parametrize("workers", [0, 1])
def test_training_ends_with_the_line_about_a_lost_shard(pack, workers):
    train = open_data(pack).train
    (pack / "train-00000.bin").unlink()
    loader = TrainLoader(
        train,
        TrainTransform(AugmentConfig(), InputContract(height=4, width=4)),
        EpochSampler(len(train), global_batch=4, data_seed=0),
        workers=workers,
        data_seed=0,
        start=0,
        stop=2,
    )
    with loader, pytest.raises(IsopatchError, match=r"train-00000\.bin: No such file or directory"):
        list(loader)


def test_skipping_does_not_take_a_lost_shard_for_unreadable_pictures(pack, monkeypatch):
    real = open_pack

    def opened(folder, **options):
        found = real(folder, **options)
        (folder / "train-00000.bin").unlink()
        return found

    monkeypatch.setattr("isopatch.data.find.open_pack", opened)
    with pytest.raises(IsopatchError, match=r"train-00000\.bin: No such file.*pack the data again"):
        open_data(pack, bad="skip")

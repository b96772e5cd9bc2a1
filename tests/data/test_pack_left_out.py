"""Pictures that could not be read when a pack was made keep their places, so every cut stays the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isopatch.bench.data import LoaderSettings, measure_loaders
from isopatch.bench.data_files import picture_folder
from isopatch.cli import main
from isopatch.data.open import open_data
from isopatch.data.pack_index import read_index, write_index
from isopatch.data.packing import pack_data
from isopatch.data.sources.pack import open_pack
from isopatch.errors import IsopatchError, UsageError
from isopatch.image.contract import InputContract
from isopatch.image.decode import DecodeError
from isopatch.training.config import AugmentConfig

PER_CLASS = 40
BROKEN = ["a/a00.png", "a/a17.png", "a/a18.png", "b/b05.png"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pool(tmp_path):
    """One tree of class folders, 2 x 40 pictures, of which every split is cut."""
    for name in "ab":
        (tmp_path / "pool" / name).mkdir(parents=True)
        for index in range(PER_CLASS):
            shade = (2 * index, 3 * index, 90)
            Image.new("RGB", (6, 5), shade).save(tmp_path / "pool" / name / f"{name}{index:02d}.png")
    return tmp_path / "pool"


def break_pictures(root, names):
    for name in names:
        (root / name).write_bytes(b"no picture")


def short(name, data):
    """The picture's name in the folder, whether the folder or its pack tells it."""
    return name.removeprefix(f"{data}:").removeprefix(f"{data}/")


def in_each_split(data, **options):
    splits = open_data(data, **options)
    found = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {role: [short(source.name(i), data) for i in range(len(source))] for role, source in found.items()}


def differing(pool, pack):
    """Return the settings under which a split of the pack is not that of the folder."""
    settings = [{"split_seed": seed} for seed in range(4)]
    settings += [{"split_seed": 1, "fraction": 0.5, "fraction_seed": seed} for seed in range(3)]
    settings += [{"val_fraction": 0.3, "test_fraction": 0.4}]
    ours = [in_each_split(pool, bad="skip", **each) for each in settings]
    theirs = {bad: [in_each_split(pack, bad=bad, **each) for each in settings] for bad in ("fail", "skip")}
    assert theirs["fail"] == theirs["skip"]
    return [each for each, a, b in zip(settings, ours, theirs["fail"], strict=True) if a != b]


@pytest.mark.parametrize("store", ["raw", "jpeg"])
@pytest.mark.parametrize("broken", [BROKEN[:1], BROKEN], ids=["one", "several"])
def test_a_pack_is_cut_like_the_folder_it_skipped_pictures_of(pool, tmp_path, store, broken):
    break_pictures(pool, broken)
    pack_data(pool, tmp_path / "pack", store=store, bad="skip")
    assert differing(pool, tmp_path / "pack") == []
    before, after = open_data(pool, bad="skip"), open_data(tmp_path / "pack")
    assert {role: [short(name, pool) for name, _ in files] for role, files in before.skipped.items()} == {
        role: [short(name, tmp_path / "pack") for name, _ in files] for role, files in after.skipped.items()
    }
    assert sum(len(files) for files in after.skipped.values()) == len(broken)
    for role in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(after, role).labels, getattr(before, role).labels)
        for index in range(len(getattr(after, role))):
            assert getattr(after, role).read(index).size == (6, 5)


def test_without_their_places_the_cuts_would_differ(pool, tmp_path):
    """The control: a folder without the broken files numbers its pictures as a pack without places would."""
    break_pictures(pool, BROKEN)
    pack_data(pool, tmp_path / "whole", bad="skip")
    original = {name: (pool / name).read_bytes() for name in BROKEN}
    for name in BROKEN:
        (pool / name).unlink()
    pack_data(pool, tmp_path / "renumbered")
    for name, content in original.items():
        (pool / name).write_bytes(content)
    assert differing(pool, tmp_path / "whole") == []
    wrong = differing(pool, tmp_path / "renumbered")
    assert len(wrong) == 8
    ours, theirs = in_each_split(pool, bad="skip"), in_each_split(tmp_path / "renumbered")
    assert set(theirs["train"]) & set(ours["test"])  # what a test split would have leaked


def test_what_was_left_out_is_listed_noted_and_never_read(pool, tmp_path):
    break_pictures(pool, BROKEN)
    result = pack_data(pool, tmp_path / "pack", bad="skip")
    assert result["splits"] == {"train": 76} and len(result["skipped"]["train"]) == 4
    source = open_pack(tmp_path / "pack").train
    assert len(source) == 80 and list(source.left_out) == [0, 17, 18, 45]
    assert all(reason.startswith("not a picture") for reason in source.left_out.values())
    assert source.labels[45] == 1 and source.name(45).endswith("pack:b/b05.png")
    for read in (source.read, source.picture, source.stored):
        with pytest.raises(
            DecodeError, match=r"pack:a/a17\.png: could not be read when it was packed: not a p"
        ):
            read(17)
    splits = open_data(tmp_path / "pack", val_fraction=0, test_fraction=0)
    assert len(splits.train) == 76
    assert [name for name, _ in splits.skipped["train"]] == [source.name(i) for i in source.left_out]
    note = "train: 4 of 80 pictures could not be read when they were packed and are left out."
    assert note in splits.notes
    whole = tmp_path / "whole"
    for name in BROKEN:
        Image.new("RGB", (6, 5)).save(pool / name)
    pack_data(pool, whole, bad="skip")
    assert open_data(whole).skipped == {} and open_pack(whole).train.left_out == {}


def test_damage_after_packing_is_skipped_beside_what_was_left_out(pool, tmp_path):
    break_pictures(pool, BROKEN[:1])
    pack_data(pool, tmp_path / "pack", bad="skip")
    shard = tmp_path / "pack" / "train-00000.bin"
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    splits = open_data(tmp_path / "pack", bad="skip", val_fraction=0, test_fraction=0)
    (_, first), (second_name, second) = splits.skipped["train"]
    assert first.startswith("not a picture") and second_name.endswith("a/a01.png") and "checksum" in second
    assert len(splits.train) == 78
    assert sum("are left out" in note or "were skipped" in note for note in splits.notes) == 2


def test_a_class_of_which_nothing_is_left_is_refused(pool, tmp_path):
    break_pictures(pool, [f"a/a{index:02d}.png" for index in range(PER_CLASS)])
    pack_data(pool, tmp_path / "pack", bad="skip")
    with pytest.raises(UsageError, match="no pictures of class 'a'"):
        open_data(tmp_path / "pack", val_fraction=0, test_fraction=0)


def test_a_split_of_which_nothing_is_left_is_refused(pool, tmp_path):
    break_pictures(pool, in_each_split(pool, split_seed=3)["test"])
    pack_data(pool, tmp_path / "pack", bad="skip")
    with pytest.raises(UsageError, match="none of the 16 pictures of test can be read"):
        open_data(tmp_path / "pack", split_seed=3)
    assert len(open_data(tmp_path / "pack", split_seed=4).test) > 8  # another cut holds some of both


def test_check_reports_them_as_unreadable(pool, tmp_path, capsys):
    break_pictures(pool, BROKEN)
    pack_data(pool, tmp_path / "pack", bad="skip")
    assert main(["data", "check", str(tmp_path / "pack"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["readable"], report["unreadable"], report["problem"]) == (76, 4, None)
    assert [os.path.basename(bad["file"]) for bad in report["unreadable_files"]] == [
        os.path.basename(name) for name in BROKEN
    ]
    assert report["splits"]["all"]["classes"] == {"a": 37, "b": 39}
    assert main(["data", "check", str(tmp_path / "pack")]) == 0
    assert "b/b05.png: could not be read when it was packed: not a picture" in capsys.readouterr().out


def test_a_pack_of_a_pack_leaves_the_same_out_for_the_same_reason(pool, tmp_path):
    break_pictures(pool, BROKEN)
    pack_data(pool, tmp_path / "first", bad="skip")
    pack_data(tmp_path / "first", tmp_path / "second", short_side=4)  # --bad fail: they were accepted before
    first, second = (open_pack(tmp_path / name).train for name in ("first", "second"))
    assert first.left_out == second.left_out and len(second.left_out) == 4
    shard = tmp_path / "first" / "train-00000.bin"
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    with pytest.raises(DecodeError, match=r"a01\.png: damaged"):  # the control: this one was not
        pack_data(tmp_path / "first", tmp_path / "third")


def test_loaders_are_measured_on_what_is_left(pool, tmp_path):
    break_pictures(pool, BROKEN)
    pack_data(pool, tmp_path / "pack", bad="skip")
    settings = LoaderSettings(
        AugmentConfig(), InputContract(height=4, width=4), batch_size=19, workers=0, rounds=1, pictures=76
    )
    assert measure_loaders(tmp_path / "pack", settings, peers=[])["pictures"] == 76
    with picture_folder(tmp_path / "pack") as folder:
        assert len(list(Path(folder).glob("*/*.jpg"))) == 76


def test_a_pack_whose_pictures_were_numbered_anew_is_refused(pool, tmp_path):
    """As older versions packed: what was skipped is listed and has no row."""
    pack = tmp_path / "pack"
    pack_data(pool, pack)
    document = read_index(pack)
    write_index(pack, document)
    assert len(open_pack(pack).train) == 80  # the control: nothing was skipped, nothing is amiss
    document["splits"]["train"]["skipped"] = [["a/a99.png", "not a picture"]]
    write_index(pack, document)
    with pytest.raises(IsopatchError, match=r"older version.*; pack the data again") as error:
        open_data(pack)
    assert str(pack) in str(error.value) and "\n" not in str(error.value)

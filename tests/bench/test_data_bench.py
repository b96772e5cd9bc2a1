"""The loader's bench: every contender is measured on the same pictures and settings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.bench.data import LoaderSettings, measure_loaders, our_batches, render
from isopatch.bench.data_files import picture_folder
from isopatch.bench.data_peers import PEERS
from isopatch.cli import main
from isopatch.data.packing import pack_data
from isopatch.data.sources.folder import open_folder
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.training.config import AugmentConfig

# timm leaves the files of its data sets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONTRACT = InputContract(height=16, width=16)
DEIT = AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    for name in ("a", "b"):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = np.random.default_rng(index).integers(0, 256, (24, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return root


def settings():
    return LoaderSettings(DEIT, CONTRACT, batch_size=4, workers=0, rounds=2, pictures=8)


def test_every_contender_has_its_rate_and_ours_its_ratio(tree):
    document = measure_loaders(tree, settings(), peers=list(PEERS))
    json.dumps(document)
    assert list(document["contenders"]) == ["isopatch", *PEERS]
    for contender in document["contenders"].values():
        rate = contender["images_per_second"]
        assert len(rate["all"]) == 2 and rate["quartiles"][0] <= rate["median"] <= rate["quartiles"][1]
        assert rate["median"] > 0
    rates = [document["contenders"][name]["images_per_second"]["all"] for name in document["contenders"]]
    expected = [ours / max(peers) for ours, *peers in zip(*rates, strict=True)]
    assert document["ratio_to_best_peer"]["all"] == pytest.approx(expected, rel=0.01)
    assert "times the best peer" in render(document)


@pytest.mark.parametrize("peer", ["isopatch", *PEERS])
def test_all_give_normalised_pictures(tree, peer):
    with picture_folder(tree) as folder:
        if peer == "isopatch":
            opened = our_batches(open_folder(tree).train, settings(), 0)
        else:
            opened = PEERS[peer](folder, settings())(0)
        with opened as batches:
            images = torch.cat([next(batches).clone() for _ in range(4)])
    assert images.shape == (16, 3, 16, 16) and images.dtype == torch.float32
    assert abs(float(images.mean())) < 1.5 and 0.3 < float(images.std()) < 3


def test_without_peers_there_is_no_ratio(tree, capsys):
    command = ["data", "bench", str(tree), "--size", "16", "--batch-size", "4", "--rounds", "1"]
    assert main([*command, "--pictures", "4", "--workers", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"] == "deit" and document["ratio_to_best_peer"] is None
    assert list(document["contenders"]) == ["isopatch"]


def test_what_has_no_files_is_written_out_for_the_peers(tree, tmp_path):
    pack_data(tree, tmp_path / "pack")
    with picture_folder(tmp_path / "pack") as folder:
        assert len(list(folder.glob("*/*.jpg"))) == 16
        labels = [path.parent.name for path in sorted(folder.glob("*/*.jpg"))]
    assert labels.count("0000") == labels.count("0001") == 8
    assert not folder.exists()
    with picture_folder(tree) as folder:
        assert folder == tree / "train"
    assert folder.exists()


def test_what_cannot_be_compared_is_said(tree):
    with pytest.raises(UsageError, match="--peers ffcv: there are timm"):
        measure_loaders(tree, settings(), peers=["ffcv"])
    padded = LoaderSettings(AugmentConfig(crop="padded"), CONTRACT, batch_size=4, workers=0, rounds=1)
    with pytest.raises(UsageError, match="crop random-resized only"):
        measure_loaders(tree, padded, peers=["timm"])

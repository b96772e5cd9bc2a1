"""The 716 odd pictures: each read, or refused with its reason."""

import csv
import os
from pathlib import Path

import pytest
from benchmarks.reliability import odd_images

DATA = Path(os.environ.get("ISOPATCH_DATA", "")) / "odd-images"
pytestmark = pytest.mark.skipif(
    not (DATA / "MANIFEST.csv").is_file(), reason="ISOPATCH_DATA holds no odd-images folder"
)


@pytest.fixture(scope="module")
def rows():
    with (DATA / "MANIFEST.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def report():
    from isopatch.data.check import check_data

    return check_data(DATA)


def test_every_file_is_counted(report, rows):
    assert odd_images.counted(report, rows, DATA) == []


def test_exif_sets_are_upright_and_pillow_alone_is_not():
    figures, problems = odd_images.upright(DATA)
    assert problems == []
    assert all(figure["with_pillow_alone"] is None for figure in figures.values())


def test_sixteen_bit_pictures_keep_their_levels(report, rows, tmp_path):
    remarked = {Path(entry["file"]).name for entry in report["remarks"]}
    _, problems = odd_images.grey_levels(DATA, rows, remarked, tmp_path)
    assert problems == []

"""Hub data sets, with a stand-in for the `datasets` library: no network, no extra."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import pytest
from PIL import Image

from isopatch.data.find import find_data
from isopatch.data.open import open_data
from isopatch.data.source import file_name_of
from isopatch.errors import UsageError
from isopatch.image.decode import DecodeError


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Value:
    pass


def picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (level, level, level)).save(file, "PNG")
    return file.getvalue()


class Rows:
    """As much of `datasets.Dataset` as is used."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.columns, self.features, self.decoding = columns, features, True

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        assert not self.decoding, "pictures must be decoded by our own rules"
        return {name: values[key] for name, values in self.columns.items()}

    def cast_column(self, name: str, feature: Any) -> Rows:
        assert type(self.features[name]).__name__ == "Image" and feature.decode is False
        rows = Rows(self.columns, self.features)
        rows.decoding = False
        return rows


def rows(levels: list[int | None], labels: list[Any], feature: Any, label: str = "label") -> Rows:
    image = type("Image", (), {})()
    cells = [{"bytes": None if level is None else picture(level), "path": None} for level in levels]
    return Rows({"img": cells, label: labels}, {"img": image, label: feature})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Repositories by name; asking for another one fails as the library does."""
    repositories: dict[str, Any] = {}

    class Undecoded:
        def __init__(self, decode: bool) -> None:
            self.decode = decode

    def load_dataset(name: str, config: str | None) -> Any:
        if name not in repositories:
            raise ConnectionError(f"Couldn't reach '{name}' on the Hub (offline)\nmore lines")
        return repositories[name]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.Image = Undecoded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return repositories


def test_cifar10_by_its_short_name(hub: dict[str, Any]) -> None:
    names = ClassLabel(["cat", "dog"])
    hub["uoft-cs/cifar10"] = {
        "train": rows([1, 2, 3, 4], [0, 1, 1, 0], names),
        "test": rows([5, 6], [1, 0], names),
    }
    splits = open_data("cifar10", val_fraction=0)
    assert splits.classes == ("cat", "dog") and splits.val is None
    train, test = splits.train, splits.test
    assert train is not None and test is not None
    assert [train.read(i).getpixel((0, 0))[0] for i in range(4)] == [1, 2, 3, 4]
    assert train.labels.tolist() == [0, 1, 1, 0] and test.labels.tolist() == [1, 0]
    assert test.name(1) == "uoft-cs/cifar10/test:1"


def test_a_row_s_file_name_is_its_path(hub: dict[str, Any]) -> None:
    pictures = rows([1, 2], [0, 1], ClassLabel(["a", "b"]))
    pictures.columns["img"][1]["path"] = "ILSVRC2012_val_00000002.JPEG"
    hub["some/set"] = {"train": pictures, "test": rows([3], [0], ClassLabel(["a", "b"]))}
    train = open_data("some/set", val_fraction=0).train
    assert train is not None and train.name(1) == "some/set/train:1"
    assert [file_name_of(train, i) for i in range(2)] == [None, "ILSVRC2012_val_00000002.JPEG"]


def test_text_labels_and_a_pool(hub: dict[str, Any]) -> None:
    hub["me/pets"] = {"everything": rows(list(range(20)), ["dog", "cat"] * 10, Value())}
    splits = open_data("me/pets")
    assert splits.classes == ("cat", "dog")
    assert [len(s or ()) for s in (splits.train, splits.val, splits.test)] == [14, 2, 4]
    for source in (splits.train, splits.val, splits.test):
        assert source is not None
        for index in range(len(source)):
            level = source.read(index).getpixel((0, 0))[0]
            assert source.classes[source.labels[index]] == ("dog", "cat")[level % 2]


def test_cifar100_takes_the_fine_labels(hub: dict[str, Any]) -> None:
    split = rows([1, 2], [1, 0], ClassLabel(["apple", "bee"]), label="fine_label")
    split.columns["coarse_label"] = [0, 0]
    split.features["coarse_label"] = ClassLabel(["thing", "other"])
    hub["uoft-cs/cifar100"] = {"train": split, "test": split}
    assert find_data("cifar100", max_pixels=100).classes == ("apple", "bee")


def test_a_row_without_picture_is_a_bad_picture(hub: dict[str, Any]) -> None:
    hub["me/pets"] = {"train": rows([1, None], [0, 1], ClassLabel(["a", "b"]))}
    train = find_data("me/pets", max_pixels=100).train
    assert train is not None
    with pytest.raises(DecodeError, match="me/pets/train:1: no picture"):
        train.read(1)


def test_offline_or_unknown_is_one_clear_line(hub: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"Couldn't reach .* check the name and the connection") as caught:
        open_data("cifar10")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="not a path here"):
        open_data("somebody/something")


def test_without_the_extra_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'isopatch\[hub\]'"):
        open_data("cifar10")


def test_splits_of_unknown_names_are_refused(hub: dict[str, Any]) -> None:
    split = rows([1, 2], [0, 1], ClassLabel(["a", "b"]))
    hub["me/pets"] = {"north": split, "south": split}
    with pytest.raises(UsageError, match=r"\['north', 'south'\] are none of"):
        open_data("me/pets")


def test_a_path_beats_a_hub_name(hub: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / "cifar10" / name).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "cifar10" / name / "1.png")
    monkeypatch.chdir(tmp_path)
    assert find_data("cifar10", max_pixels=100).classes == ("a", "b")

"""Label sets (ReaL) and class subsets (ImageNet-A, -R, -V2) on miniature sets with the real sets' names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.cli import main
from isopatch.data.class_subset import subset_outputs
from isopatch.errors import IsopatchError, UsageError
from isopatch.eval_labels import How, evaluate_labels, evaluate_subset
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.predict import Predictor

# Not in alphabetical order: numbers count sorted WordNet ids, not outputs.
WNIDS = ("n02000003", "n01000001", "n03000004", "n01500002", "n09000005")


def save(folder: Path, classes: tuple[str, ...] | None, outputs: int = 5) -> None:
    torch.manual_seed(0)
    arguments = {"dim": 16, "depth": 1, "kernel_size": 3, "patch_size": 4, "image_size": 16}
    model = build(make_spec("convmixer", {**arguments, "num_classes": outputs}, classes=classes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    save_model(folder, model)


def paint(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((16, 16)).save(path)


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A validation split of 20 pictures in five classes, numbered across classes as ImageNet's are."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", WNIDS)
    for number in range(1, 21):
        wnid = sorted(WNIDS)[number % 5]
        paint(tmp_path / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{number:08d}.png", number)
    return tmp_path / "imagenet"


def predictions(folder: Path) -> dict[str, str]:
    """File name -> the class the model says."""
    files = sorted(folder.rglob("*.png"))
    predictor = Predictor("model", top_k=1)
    return {file.name: found.labels[0] for file, found in zip(files, predictor(list(files)), strict=True)}


def test_real(imagenet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = predictions(imagenet)
    order = sorted(WNIDS)
    sets: list[list[int]] = []
    for number in range(1, 21):
        own = order.index(said[f"ILSVRC2012_val_{number:08d}.png"])
        other = (own + 1) % 5
        sets.append([[], [own], [other], [other, own]][number % 4])
    Path("real.json").write_text(json.dumps(sets))
    assert main(["eval", "model", "--data", "imagenet", "--labels", "real.json", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["left_out"], document["num_counted"], document["num_correct"]) == (5, 15, 10)
    assert document["top1"] == 10 / 15 and document["labels_per_picture"] == pytest.approx(4 / 3)
    assert document["interval"][0] < 10 / 15 < document["interval"][1]
    truth = {file.name: file.parent.name for file in imagenet.rglob("*.png")}
    right = sum(said[name] == label for name, label in truth.items())
    assert document["original"]["num_correct"] == right and document["original"]["num_images"] == 20

    by_name = {f"ILSVRC2012_val_{n:08d}.png": [order[i] for i in sets[n - 1]] for n in range(1, 21)}
    Path("named.json").write_text(json.dumps(by_name))
    assert evaluate_labels("model", "imagenet", "named.json")["num_correct"] == 10
    swapped = [[4 - i for i in one] for one in sets]  # the control: other labels, another figure
    Path("other.json").write_text(json.dumps(swapped))
    assert evaluate_labels("model", "imagenet", "other.json")["num_correct"] != 10
    assert main(["eval", "model", "--data", "imagenet", "--labels", "real.json", "--min-acc", "0.9"]) == 3
    out = capsys.readouterr().out
    assert "left out: 5 of 20 pictures" in out and "66.67 % (10 of 15" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[0]]", r"has 1 entries, none for ILSVRC2012_val_0000\d+.png"),
        (json.dumps([[7]] * 20), "class number 7, and the model has 5 classes"),
        (json.dumps([[True]] * 20), "True is none of the model's classes"),
        (json.dumps([0] * 20), "is no list but int"),
        (json.dumps([[]] * 20), "no picture of the val split has a right answer"),
        ('{"ILSVRC2012_val_00000001.png": [0]}', "has no entry for ILSVRC2012_val_0000"),
        ('"text"', "expected a list of lists"),
        ("{", "damaged or no JSON"),
    ],
)
def test_label_files_that_do_not_fit(imagenet: Path, content: str, message: str) -> None:
    Path("labels.json").write_text(content)
    with pytest.raises(IsopatchError, match=message):
        evaluate_labels("model", "imagenet", "labels.json")


def test_two_pictures_of_one_name_are_not_told_apart(imagenet: Path) -> None:
    names = {file.name: [file.parent.name] for file in imagenet.rglob("*.png")}
    Path("named.json").write_text(json.dumps(names))
    evaluate_labels("model", "imagenet", "named.json")  # the control
    paint(imagenet / "val" / WNIDS[0] / next(iter(names)), 99)
    paint(imagenet / "val" / WNIDS[1] / next(iter(names)), 98)
    with pytest.raises(UsageError, match="two pictures are called ILSVRC2012_val_"):
        evaluate_labels("model", "imagenet", "named.json")


def parquet(root: Path, target: Path, *, name: Callable[[Path], str | None]) -> None:
    """The validation pictures as a Parquet file, each with the path that `name` gives it."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = sorted(root.rglob("*.png"))
    images = [{"bytes": file.read_bytes(), "path": name(file)} for file in files]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [file.parent.name for file in files]
    target.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), target)


def test_real_of_parquet_goes_by_the_names_of_its_files(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ImageNet comes from the hub: the class stands behind the number."""
    monkeypatch.setenv("ISOPATCH_CACHE", str(tmp_path / "cache"))
    order = sorted(WNIDS)
    said = predictions(imagenet)
    sets = [[order.index(said[f"ILSVRC2012_val_{n:08d}.png"]) if n % 3 else 4] for n in range(1, 21)]
    Path("real.json").write_text(json.dumps(sets))
    expected = evaluate_labels("model", "imagenet", "real.json")["num_correct"]
    assert 0 < expected < 20
    shard = tmp_path / "rows" / "validation-00000-of-00001.parquet"
    parquet(imagenet, shard, name=lambda file: f"{file.stem}_{file.parent.name}.JPEG")
    assert evaluate_labels("model", "rows", "real.json", split="val")["num_correct"] == expected
    shutil.rmtree(shard.parent)
    parquet(imagenet, shard, name=lambda file: None)
    with pytest.raises(UsageError, match=r"parquet:0 has none stored .* folders of files with ImageNet's"):
        evaluate_labels("model", "rows", "real.json", split="val")
    Path("named.json").write_text("{}")
    with pytest.raises(UsageError, match=r"parquet:0 has none stored"):
        evaluate_labels("model", "rows", "named.json", split="val")


def test_labels_that_have_no_number_to_go_by(imagenet: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        evaluate_labels("model", "imagenet", "none.json")
    paint(imagenet / "val" / WNIDS[0] / "holiday.png", 99)
    Path("labels.json").write_text(json.dumps([[0]] * 20))
    with pytest.raises(UsageError, match=r"holiday\.png does not have; give an object"):
        evaluate_labels("model", "imagenet", "labels.json")
    names = {file.name: ["n02000003"] for file in imagenet.rglob("*.png")}
    Path("labels.json").write_text(json.dumps({**names, "holiday.png": ["n02000004"]}))
    with pytest.raises(UsageError, match="'n02000004' is none of the model's classes"):
        evaluate_labels("model", "imagenet", "labels.json")


def logits(model: str, files: list[Path]) -> np.ndarray:
    from isopatch.image.decode import decode
    from isopatch.image.prepare import prepare

    loaded = load(model)
    batch = torch.stack([prepare(decode(file, name=str(file)), loaded.spec.input) for file in files])
    with torch.no_grad():
        return loaded(batch).numpy()


def test_a_subset_of_the_classes(imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ImageNet-A comes: class folders at the top, no splits; three of five classes."""
    said = list(predictions(imagenet).values())
    three = [name for name in WNIDS if name != max(said, key=said.count)][:3]
    for number in range(24):
        paint(tmp_path / "imagenet-a" / three[number % 3] / f"{number}.png", 100 + number)
    assert main(["eval", "model", "--data", "imagenet-a", "--class-subset", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    files = sorted((tmp_path / "imagenet-a").rglob("*.png"))
    scores = logits("model", files)
    truth = np.array([WNIDS.index(file.parent.name) for file in files])
    allowed = sorted(WNIDS.index(name) for name in three)
    restricted = np.array(allowed)[scores[:, allowed].argmax(1)]
    assert document["num_images"] == 24 and document["classes"] == 3 and document["outputs"] == 5
    assert document["num_correct"] == int((restricted == truth).sum())
    assert document["unrestricted"]["num_correct"] == int((scores.argmax(1) == truth).sum())
    assert document["outside"] == pytest.approx(np.mean(~np.isin(scores.argmax(1), allowed)))
    assert document["num_correct"] >= document["unrestricted"]["num_correct"] and document["outside"] > 0
    assert main(["eval", "model", "--data", "imagenet-a", "--class-subset"]) == 0
    assert "3 of 5 classes (by name)" in capsys.readouterr().out


def never() -> dict[str, str]:
    raise AssertionError("ImageNet's table was asked for")


def test_numbered_folders_are_numbers(imagenet: Path, tmp_path: Path) -> None:
    """As ImageNet-V2 comes. As names they would sort as 0, 1, 10, 11, 2."""
    save(tmp_path / "twelve", None, outputs=12)
    for number in range(24):
        paint(tmp_path / "v2" / str(number % 12) / f"{number}.png", number)
    files = sorted((tmp_path / "v2").rglob("*.png"))
    truth = np.array([int(file.parent.name) for file in files])
    found = evaluate_subset("twelve", "v2", how=How(batch_size=5))
    assert found["num_correct"] == int((logits("twelve", files).argmax(1) == truth).sum())
    assert found["outside"] == 0 and found["matched"] == "folders are numbers"
    place, _ = subset_outputs(["0", "3"], WNIDS, 5, imagenet=never, where="x")
    assert [WNIDS[i] for i in place] == [sorted(WNIDS)[0], sorted(WNIDS)[3]]


def test_wordnet_ids_of_a_model_that_names_none() -> None:
    table = {f"n{10 * i:08d}": f"word{i}, Verbum {i}" for i in range(1000)}
    place, how = subset_outputs(["n00000020", "n00009990"], None, 1000, imagenet=lambda: table, where="a")
    assert place.tolist() == [2, 999] and "ImageNet's order" in how
    with pytest.raises(UsageError, match=r"a: 1 of 2 class folders .* such as 'n00000021'"):
        subset_outputs(["n00000020", "n00000021"], None, 1000, imagenet=lambda: table, where="a")


def test_wordnet_ids_of_a_model_that_names_words() -> None:
    table = {f"n{10 * i:08d}": f"word{i}, Verbum {i}" for i in range(1000)}
    words = [f"Word{i}" for i in range(1000)]
    words[5] = "another word"  # lists differ in a few
    place, _ = subset_outputs(["n00000020"], words, 1000, imagenet=lambda: table, where="a")
    assert place.tolist() == [2]
    with pytest.raises(UsageError, match=r"not ImageNet's, such as 'Word999'"):
        subset_outputs(["n00000020"], words[::-1], 1000, imagenet=lambda: table, where="a")


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (["n01000001", "n01000009"], WNIDS, "1 of 2 class folders are no classes.*did you mean 'n01000001'"),
        (["cat", "dog"], None, "2 of 2 class folders"),
        (["n01000001"], None, "1 of 1 class folders"),  # five outputs without names could be anything
        (["0", "5"], None, "has a class folder 5, and the model 5 outputs"),
        (["1", "01"], None, "two class folders stand for one class"),
    ],
)
def test_folders_that_are_no_classes(folders: list[str], classes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        subset_outputs(folders, classes, 5, imagenet=never, where="data")


def test_the_command_refuses(imagenet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["eval", "model", "--data", "imagenet"]
    assert main([*base, "--class-subset", "--labels", "x"]) == 2
    assert "ask for one of them at a time" in capsys.readouterr().err
    assert main([*base, "--class-subset", "--split", "test"]) == 2
    assert "--split test: imagenet has val" in capsys.readouterr().err
    assert main([*base, "--labels", "x", "--baseline", "y"]) == 2
    assert "--baseline has no meaning with --labels" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_is_imagenets() -> None:
    from isopatch.eval_labels import _imagenet

    table = _imagenet()
    assert len(table) == 1000 and list(table) == sorted(table)
    assert table["n01440764"] == "tench, Tinca tinca"

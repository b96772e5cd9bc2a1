"""Predicting: one picture, many, a stream; what is unreadable is said; inputs come in a fixed order."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.errors import IsopatchError, UsageError
from isopatch.image.decode import DecodeError, decode
from isopatch.image.prepare import prepare
from isopatch.predict import Prediction, Predictor, expand_inputs, require_device


def write_pictures(folder: Path, *names: str) -> list[str]:
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(folder / name, format="PNG")
    return [str(folder / name) for name in names]


def test_a_prediction_is_the_models_softmax(predictor: Predictor, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path, "a.png")
    image = prepare(decode(Path(path), name="a"), predictor.spec.input)
    with torch.no_grad():
        expected = predictor.model(image[None]).double().softmax(dim=1)[0].sort(descending=True)
    result = predictor(path)
    assert result.path == path
    assert result.error is None
    assert result.labels == tuple(predictor.classes[index] for index in expected.indices[:2])
    assert result.probabilities == pytest.approx(expected.values[:2].tolist())
    assert (result.label, result.probability) == (result.labels[0], result.probabilities[0])


def test_one_gives_one_and_a_list_gives_a_list(predictor: Predictor, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, "a.png", "b.png")
    with Image.open(paths[1]) as picture:
        results = predictor([paths[0], Path(paths[1]), picture, picture.convert("RGB")])
        assert isinstance(predictor(picture), Prediction)
    assert [result.path for result in results] == [*paths, "", ""]
    assert results[1].probabilities == results[2].probabilities == results[3].probabilities
    assert predictor([]) == []


def test_a_picture_in_memory_is_turned_as_its_file_says(predictor: Predictor, tmp_path: Path) -> None:
    (plain,) = write_pictures(tmp_path, "a.png")
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(plain) as picture:
        picture.save(turned, exif=exif)
    with Image.open(turned) as picture:
        assert predictor(picture).probabilities == pytest.approx(predictor(turned).probabilities)
    assert predictor(turned).probabilities != pytest.approx(predictor(plain).probabilities)


def test_a_picture_opened_by_the_caller_gives_the_tensor_of_its_file(predictor: Predictor) -> None:
    """Every readable odd picture, bit for bit; among them those whose file's tags decide how it is read."""
    root = Path(os.environ.get("ISOPATCH_DATA", "/nowhere")) / "odd-images"
    if not root.is_dir():
        pytest.skip("ISOPATCH_DATA does not name a folder with odd-images")
    paths = [path for path in sorted(root.rglob("*.*")) if path.suffix not in (".csv", ".md", ".txt")]
    seen = set()
    for path in paths:
        try:
            expected = prepare(decode(path, name=path.name), predictor.spec.input)
        except DecodeError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(path)
        with picture:
            for _ in range(2):  # not yet loaded, loaded
                tensor = predictor._prepare(picture)
                assert isinstance(tensor, torch.Tensor), (path, tensor)
                assert torch.equal(tensor, expected), path
        seen.add(path.name)
    assert len(seen) > 600
    assert {"16bit.s.tif", "rgb_trns.png", "caption_6_33_22.png"} <= seen


def test_an_opened_picture_has_the_limits_of_its_file(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(path)
    small = Predictor(model_folder, max_pixels=500)
    with Image.open(path) as picture:
        assert small(picture).error == small(path).error
        assert "30 x 20 pixels" in str(small(picture).error)
        assert Predictor(model_folder, max_pixels=600)(picture).error is None
    assert small(Image.new("RGB", (30, 20))).error is None  # nothing is decoded: there is nothing to limit


def test_unreadable_pictures_say_why_and_keep_their_place(predictor: Predictor, tmp_path: Path) -> None:
    good = write_pictures(tmp_path, *(f"{i}.png" for i in range(6)))
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(good[0]).read_bytes()[:60])
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    inputs = [*good[:2], str(broken), *good[2:5], str(tmp_path / "gone.png"), str(text), good[5]]
    results = predictor(inputs)
    assert [result.path for result in results] == inputs
    unreadable = {result.path: result.error for result in results if result.error}
    assert set(unreadable) == {str(broken), str(tmp_path / "gone.png"), str(text)}
    assert unreadable[str(tmp_path / "gone.png")] == "no such file"
    assert all(len(result.labels) == 2 for result in results if not result.error)
    assert results[2].label is results[2].probability is None
    alone = [predictor(path) for path in good]
    together = [result for result in results if not result.error]
    for first, second in zip(alone, together, strict=True):
        assert first.labels == second.labels
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)


def test_a_stream_takes_two_batches_ahead_and_no_more(predictor: Predictor, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path, "a.png")
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(path)
            yield path

    stream = predictor.stream(endless())
    for _ in range(9):  # batch size 4: the third batch is being given out
        next(stream)
    assert len(taken) == 16
    stream.close()  # type: ignore[attr-defined]


def test_classes_without_names_are_numbers(tmp_path: Path, save_model_without_names: Path) -> None:
    predictor = Predictor(save_model_without_names, top_k=99)
    (path,) = write_pictures(tmp_path, "a.png")
    assert sorted(predictor(path).labels) == ["0", "1", "2", "3", "4", "5"]
    assert sum(predictor(path).probabilities) == pytest.approx(1)


def test_a_broken_model_is_an_error_not_a_prediction(predictor: Predictor, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path, "a.png")
    torch.nn.init.constant_(next(iter(predictor.model.heads.parameters())), float("nan"))
    with pytest.raises(IsopatchError, match=r"a\.png: the model's output is not finite"):
        predictor(path)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"batch_size": 0}])
def test_bad_options_are_refused(model_folder: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Predictor(model_folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cdua", "", "meta", "0", "cuda:x", "cuda:64", "cpu "])
def test_a_device_that_is_not_there_is_one_line(model_folder: Path, device: str) -> None:
    with pytest.raises(UsageError, match=rf"^device '{device}' was asked for, this machine has cpu") as error:
        Predictor(model_folder, device=device)
    assert "\n" not in str(error.value)


def test_the_devices_of_the_machine_are_taken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert require_device(name) == torch.device(name)
    with pytest.raises(UsageError, match=r"'cuda:2' was asked for, this machine has cpu, cuda:0, cuda:1; ch"):
        require_device("cuda:2")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=r"'cuda' was asked for, this machine has cpu; choose one of them"):
        require_device("cuda")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_are_walked_in_name_order_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "b/10.png", "a.png", "c/d/x.jpg", ".hidden.png", "b/.git/y.png", "c.png")
    (tmp_path / "empty").mkdir()
    found = [os.path.relpath(path, tmp_path) for path in expand_inputs([tmp_path])]
    assert found == ["a.png", "b/10.png", "b/2.png", "c/d/x.jpg", "c.png"]


def test_each_file_comes_once_in_the_order_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.png", "b.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    asked = [tmp_path / "b.png", tmp_path / "a", str(tmp_path / "a/../b.png"), str(tmp_path / "a/*.png")]
    found = [os.path.relpath(path, tmp_path) for path in expand_inputs(asked)]
    assert found == ["b.png", "a/1.png", "a/2.png", "a/loop/b.png"]


def test_globs_match_files_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "x1/a.png", "x2/b.png", "y/c.png", "x1/deep/e.png", "[odd].png")
    assert len(expand_inputs([str(tmp_path / "x*")])) == 3
    assert len(expand_inputs([str(tmp_path / "**/*.png")])) == 5
    assert expand_inputs([str(tmp_path / "[odd].png")]) == [str(tmp_path / "[odd].png")]


@pytest.mark.parametrize(
    ("item", "message"),
    [("gone.png", "no such file"), ("*.gif", "matches no file"), ("empty", "holds no file")],
)
def test_inputs_that_mean_nothing_are_refused(tmp_path: Path, item: str, message: str) -> None:
    touch(tmp_path, "empty/.hidden", "a.png")
    with pytest.raises(UsageError, match=message):
        expand_inputs([tmp_path / "a.png", tmp_path / item])


def test_repeating_an_input_is_no_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    assert expand_inputs([tmp_path / "a.png", tmp_path, str(tmp_path / "*.png")]) == [str(tmp_path / "a.png")]


def test_a_bare_weights_file_is_predicted_with_when_its_model_is_named(tmp_path):
    """As from another project: the tensors alone, under timm's names."""
    from isopatch.models.formats.timm import from_isopatch
    from isopatch.models.spec import build, make_spec

    model = build(make_spec("convmixer_128_4_ks8_p1", {}))
    torch.save(from_isopatch(model.state_dict(), "convmixer"), tmp_path / "weights.pth")
    with pytest.raises(IsopatchError):
        Predictor(tmp_path / "weights.pth")
    predictor = Predictor(tmp_path / "weights.pth", name="convmixer_128_4_ks8_p1")
    assert len(predictor(Image.new("RGB", (32, 32))).labels) == 5

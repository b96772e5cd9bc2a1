"""What stands between a teacher and a wrong lesson: the views it is asked about, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.runs import StopAfter, digest, run

from isopatch.api import configure, train
from isopatch.data.open import open_data
from isopatch.errors import UsageError
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.training import setup, step
from isopatch.training.config import RunConfig
from isopatch.training.teacher import Teacher

SIZES = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
MODEL = {"name": "convmixer", **SIZES}
DEIT = {"name": "deit", "dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 8}


@pytest.fixture(scope="module")
def splits():
    return open_data("digits", val_fraction=0.1)


def make_teacher(folder: Path, classes, *, seed: int = 0) -> str:
    torch.manual_seed(seed)
    model = build(make_spec("convmixer", SIZES, classes=classes))
    torch.nn.init.normal_(model.heads["cls"].linear.weight, std=5.0)
    save_model(folder, model, {})
    return str(folder)


@pytest.fixture(scope="module")
def teacher(splits, tmp_path_factory) -> str:
    return make_teacher(tmp_path_factory.mktemp("teacher"), splits.classes)


def config(teacher: str | None, **changes) -> RunConfig:
    base = {
        "model": MODEL,
        "batch_size": 256,
        "epochs": 1,
        "augment": {"crop": "padded", "padding": 1},
        "mix": {"mixup": 0.8, "cutmix": 1.0},
        "threads": 1,
        "distill": {"teacher": teacher} | changes.pop("distill", {}),
    }
    return RunConfig.model_validate(base | changes)


@pytest.mark.parametrize("distill", [{}, {"feature_weight": 1.0}])
def test_the_teacher_sees_the_very_pictures_of_the_student(
    distill, splits, teacher, tmp_path, monkeypatch
) -> None:
    """Augmented and mixed: control, the same pictures before they were mixed are others."""
    asked: list[torch.Tensor] = []
    for name in ("logits", "logits_and_map"):
        original = getattr(Teacher, name)

        def recording(self, images, original=original):
            asked.append(images.clone())
            return original(self, images)

        monkeypatch.setattr(Teacher, name, recording)
    shown: list[torch.Tensor] = []
    unmixed: list[torch.Tensor] = []
    prepare, mixing = setup.prepare, step.mix

    def watched(*given, **options):
        trainer = prepare(*given, **options)
        trainer.model.stem.register_forward_pre_hook(
            lambda module, given: shown.append(given[0].detach().clone()) if module.training else None
        )
        return trainer

    def before_mixing(images, *rest, **options):
        unmixed.append(images.clone())
        return mixing(images, *rest, **options)

    monkeypatch.setattr(setup, "prepare", watched)
    monkeypatch.setattr(step, "mix", before_mixing)
    run(config(teacher, kernels="plain", distill=distill), splits, tmp_path / "run")
    steps = len(unmixed)
    assert steps == len(shown) == 5 <= len(asked)  # then it is asked about the test pictures
    for student, taught, before in zip(shown, asked, unmixed, strict=False):
        assert torch.equal(student, taught)
        assert not torch.equal(taught, before)


CHANGES = {
    "teacher": ("the teacher is another one", {}),
    "seed of the order": ("data_seed was 0, now 7", {"data_seed": 7}),
    "batch size": ("batch_size was 256, now 128", {"batch_size": 128}),
    "parts of a batch": ("accumulate was 1, now 2", {"accumulate": 2}),
    "crop": ("augment.padding was 1, now 2", {"augment": {"crop": "padded", "padding": 2}}),
    "mixing": ("mix.cutmix was 1.0, now 0.0", {"mix": {"mixup": 0.8}}),
    "normalisation": ("input.mean was", {"input": {"mean": [0.1, 0.2, 0.3]}}),
    "precision": ("teacher_precision was 'fp32', now 'bf16'", {"precision": "bf16"}),
    "views": ("views was None, now 2", {"distill": {"views": 2}}),
    "decoding": ("decode_short_side was None, now 8", {"data": {"decode_short_side": 8}}),
    "cut of the data": ("the data is another one", {}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_setting_that_changes_the_teachers_view_or_answer_is_in_the_fingerprint(
    what, splits, teacher, tmp_path
) -> None:
    message, changes = CHANGES[what]
    cache = {"cache": str(tmp_path / "cache")}

    def opened(source: str, pictures=splits, **changed):
        distill = cache | changed.pop("distill", {})
        return setup.prepare(
            config(source, precision=changed.pop("precision", "fp32"), distill=distill, **changed), pictures
        )

    first = opened(teacher)
    first.teaching.logits(torch.randn(256, 3, 8, 8), view=0, micro=0)
    assert opened(teacher).teaching.cache.read(0) is not None  # control: unchanged, it is taken
    other = make_teacher(tmp_path / "other", splits.classes, seed=1) if what == "teacher" else teacher
    pictures = open_data("digits", val_fraction=0.2) if what == "cut of the data" else splits
    with pytest.raises(UsageError, match=message):
        opened(other, pictures, **changes)


def test_what_training_does_not_read_of_the_student_is_not_in_the_fingerprint(
    splits, teacher, tmp_path
) -> None:
    cache = {"cache": str(tmp_path / "cache")}
    first = setup.prepare(config(teacher, distill=cache), splits)
    first.teaching.logits(torch.randn(256, 3, 8, 8), view=0, micro=0)
    again = config(teacher, seed=3, data_seed=0, model=DEIT, input={"crop_fraction": 0.8}, distill=cache)
    assert setup.prepare(again, splits).teaching.cache.read(0) is not None


def picture_folder(folder: Path, *, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for split, count in (("train", 16), ("test", 2)):
        for name in ("a", "b"):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(place / f"{index}.bmp")
    return folder


def test_pictures_with_other_content_under_the_same_names_are_refused(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data", seed=0)
    teacher = make_teacher(tmp_path / "teacher", ("a", "b"))

    def opened():
        settings = config(
            teacher,
            batch_size=8,
            data={"source": str(data), "val_fraction": 0},
            distill={"cache": str(tmp_path / "c")},
        )
        return setup.prepare(settings, open_data(str(data), val_fraction=0))

    opened().teaching.logits(torch.randn(8, 3, 8, 8), view=0, micro=0)
    picture_folder(tmp_path / "data", seed=0)
    assert opened().teaching.cache.read(0) is not None  # written anew, the same pictures
    picture_folder(tmp_path / "data", seed=1)
    with pytest.raises(UsageError, match="the pictures are others"):
        opened()


@pytest.mark.parametrize(
    ("model", "distill", "message"),
    [
        (
            DEIT | {"distilled": True},
            {"hard_weight": 0.0, "feature_weight": 1.0},
            "the distillation head of deit",
        ),
        (
            MODEL,
            {"hard_weight": 0.0, "label_weight": 0.0, "feature_weight": 1.0},
            "the head of convmixer would",
        ),
    ],
)
def test_a_head_that_only_feature_maps_would_teach_is_refused(
    model, distill, message, splits, teacher
) -> None:
    with pytest.raises(UsageError, match=message):
        setup.prepare(config(teacher, model=model, distill=distill), splits)
    allowed = distill | {"hard_weight": 0.5}
    setup.prepare(config(teacher, model=model, distill=allowed), splits)


def test_a_teacher_and_a_cache_may_move_while_the_run_is_stopped(splits, teacher, tmp_path) -> None:
    def settings(place: Path) -> RunConfig:
        return config(
            str(place / "teacher"),
            epochs=2,
            distill={"cache": str(place / "cache")},
            checkpoint={"every_steps": 2},
        )

    shutil.copytree(teacher, tmp_path / "one" / "teacher")
    run(settings(tmp_path / "one"), splits, tmp_path / "whole")
    shutil.rmtree(tmp_path / "one" / "cache")
    assert run(settings(tmp_path / "one"), splits, tmp_path / "run", StopAfter(3)).state == "stopped"
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert run(settings(tmp_path / "two"), splits, tmp_path / "run").state == "finished"
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


SMALL = {f"model.{key}": value for key, value in SIZES.items()} | {"data.val_fraction": 0, "epochs": 1}


def test_a_run_that_stopped_on_the_way_is_no_teacher(splits, tmp_path) -> None:
    half = configure(model="convmixer", settings=SMALL | {"epochs": 50})
    assert train(half, out=tmp_path / "half", max_minutes=1e-9, quiet=True).state == "stopped"
    student = configure(model="convmixer", teacher=str(tmp_path / "half"), settings=SMALL)
    with pytest.raises(UsageError, match=r"distill.teacher: .*half stopped at step 1 of \d+: finish it"):
        train(student, out=tmp_path / "student", quiet=True)
    meant = configure(
        model="convmixer", teacher=str(tmp_path / "half" / "checkpoints" / "last"), settings=SMALL
    )
    assert train(meant, out=tmp_path / "student", quiet=True).state == "finished"


def test_a_run_does_not_replace_its_own_teacher(tmp_path: Path) -> None:
    plain = configure(model="convmixer", settings=SMALL)
    train(plain, out=tmp_path / "run", quiet=True)
    before = digest(tmp_path / "run")
    for taught in (
        configure(model="convmixer", teacher=str(tmp_path / "run"), settings=SMALL),
        configure(settings=SMALL | {"weights": str(tmp_path / "run" / "best")}),
    ):
        with pytest.raises(UsageError, match="the folder of this run itself; choose another --out"):
            train(taught, out=tmp_path / "run", overwrite=True, quiet=True)
    assert digest(tmp_path / "run") == before

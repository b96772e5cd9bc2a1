"""Runs with a teacher: the cache changes nothing, a resume ends with the same bits, two processes agree."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.runs import StopAfter, digest, run

from isopatch.api import configure, train
from isopatch.data.open import open_data
from isopatch.errors import UsageError
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.training import checkpoint, setup
from isopatch.training.cache_header import read_header
from isopatch.training.config import RunConfig
from isopatch.training.guard import NonFinite
from isopatch.training.runfolder import RunFolder
from isopatch.training.teacher import Teacher
from isopatch.training.teaching import Teaching

CONVMIXER = {"name": "convmixer", "dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
DEIT = {
    "name": "deit",
    "dim": 16,
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
    "image_size": 8,
    "distilled": True,
}


@pytest.fixture(scope="module")
def splits():
    return open_data("digits", val_fraction=0.1)


@pytest.fixture(scope="module")
def teacher(splits, tmp_path_factory) -> str:
    """A model with an opinion on every picture; whether it was trained makes no difference here."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher")
    model = build(make_spec("convmixer", CONVMIXER_ARGUMENTS, classes=splits.classes))
    torch.nn.init.normal_(model.heads["cls"].linear.weight, std=5.0)
    save_model(folder, model, {})
    return str(folder)


CONVMIXER_ARGUMENTS = {key: value for key, value in CONVMIXER.items() if key != "name"}


def config(teacher: str | None, model=CONVMIXER, **changes) -> RunConfig:
    distill = {"teacher": teacher} | changes.pop("distill", {})
    base = {
        "model": model,
        "batch_size": 256,
        "epochs": 2,
        "augment": {"crop": "padded", "padding": 1},
        "mix": {"mixup": 0.8, "cutmix": 1.0},
        "threads": 1,
        "checkpoint": {"every_steps": 4},
        "distill": distill,
    }
    return RunConfig.model_validate(base | changes)


def told(path: Path) -> dict:
    return (RunFolder(path).read_json("summary.json") or {})["distillation"]


KINDS = {
    "hard": {"kind": "hard"},
    "soft": {"kind": "soft"},
    "both, deit-code": {"kind": "both", "convention": "deit-code"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_live_and_cached_teaching_are_the_same_to_the_bit(kind, splits, teacher, tmp_path) -> None:
    model = DEIT if kind == "hard" else CONVMIXER
    cached = KINDS[kind] | {"cache": str(tmp_path / "cache")}
    run(config(teacher, model, distill=KINDS[kind]), splits, tmp_path / "live")
    run(config(teacher, model, distill=cached), splits, tmp_path / "first")
    run(config(teacher, model, distill=cached), splits, tmp_path / "second")
    assert told(tmp_path / "first")["pictures_asked"] == 2 * 5 * 256
    assert told(tmp_path / "second")["pictures_asked"] == 0
    assert told(tmp_path / "second")["pictures_remembered"] == 2 * 5 * 256
    assert digest(tmp_path / "live") == digest(tmp_path / "first") == digest(tmp_path / "second")
    run(config(None, model), splits, tmp_path / "alone")
    assert digest(tmp_path / "alone") != digest(tmp_path / "live")  # control: the teacher does matter


def test_runs_with_another_seed_and_kind_share_the_cache(splits, teacher, tmp_path, monkeypatch) -> None:
    seen: dict[str, dict] = {"a": {}, "b": {}}
    original = Teaching.logits

    def recording(key):
        def logits(self, images, *, view, micro):
            seen[key][view, micro] = hashlib.sha256(images.numpy().tobytes()).hexdigest()
            return original(self, images, view=view, micro=micro)

        return logits

    cache = {"cache": str(tmp_path / "cache")}
    monkeypatch.setattr(Teaching, "logits", recording("a"))
    run(config(teacher, seed=0, data_seed=5, accumulate=2, distill=cache), splits, tmp_path / "a")
    monkeypatch.setattr(Teaching, "logits", recording("b"))
    again = config(teacher, DEIT, seed=1, data_seed=5, accumulate=2, distill={"kind": "soft"} | cache)
    run(again, splits, tmp_path / "b")
    assert told(tmp_path / "b")["pictures_asked"] == 0
    assert len(seen["a"]) == 2 * 5 * 2
    assert seen["a"] == seen["b"]  # view, mixing partner and weight are the teacher's
    with pytest.raises(UsageError, match="data_seed was 5, now 1"):
        run(config(teacher, seed=1, accumulate=2, distill=cache), splits, tmp_path / "c")


def test_views_repeat_and_the_teacher_is_asked_for_one_pass(splits, teacher, tmp_path) -> None:
    distill = {"views": 1, "cache": str(tmp_path / "cache")}
    run(config(teacher, epochs=3, distill=distill), splits, tmp_path / "run")
    assert told(tmp_path / "run")["pictures_asked"] == 5 * 256
    assert told(tmp_path / "run")["pictures_remembered"] == 2 * 5 * 256
    assert [p.name for p in (tmp_path / "cache").glob("view-*")] == ["view-00000.bin"]


def test_stopped_and_resumed_ends_with_the_same_bits(splits, teacher, tmp_path) -> None:
    def settings(name: str, **more) -> RunConfig:
        distill = {"kind": "both", "cache": str(tmp_path / name), "views": 2}
        return config(teacher, DEIT, epochs=3, accumulate=2, distill=distill, **more)

    run(settings("whole cache"), splits, tmp_path / "whole")
    parts = settings("cache")
    assert run(parts, splits, tmp_path / "parts", StopAfter(3)).state == "stopped"
    assert run(parts, splits, tmp_path / "parts", StopAfter(6)).state == "stopped"
    assert run(parts, splits, tmp_path / "parts").state == "finished"
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_a_resumed_run_tells_what_teaching_cost_from_its_beginning(splits, teacher, tmp_path) -> None:
    settings = config(teacher, distill={"cache": str(tmp_path / "cache"), "views": 1})
    assert run(settings, splits, tmp_path / "parts", StopAfter(3)).state == "stopped"
    assert run(settings, splits, tmp_path / "parts").state == "finished"
    whole = told(tmp_path / "parts")
    assert (whole["pictures_asked"], whole["pictures_remembered"]) == (5 * 256, 5 * 256)
    (cost,) = (tmp_path / "cache").glob("asked-*.json")
    assert json.loads(cost.read_text()) == {"pictures": 5 * 256, "seconds": whole["teacher_seconds"]}


def test_a_teacher_that_changed_since_the_run_began_is_refused(splits, teacher, tmp_path) -> None:
    shutil.copytree(teacher, tmp_path / "teacher")
    settings = config(str(tmp_path / "teacher"))
    assert run(settings, splits, tmp_path / "run", StopAfter(3)).state == "stopped"
    torch.manual_seed(1)
    shutil.rmtree(tmp_path / "teacher")
    other = build(make_spec("convmixer", CONVMIXER_ARGUMENTS, classes=splits.classes))
    save_model(tmp_path / "teacher", other, {})
    with pytest.raises(UsageError, match="is not what it was when the run started"):
        run(settings, splits, tmp_path / "run")
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(teacher, tmp_path / "teacher")
    assert run(settings, splits, tmp_path / "run").state == "finished"


def test_feature_distillation_resumes_and_trains_its_projection(splits, teacher, tmp_path) -> None:
    settings = config(teacher, DEIT, distill={"feature_weight": 0.5})
    run(settings, splits, tmp_path / "whole")
    assert run(settings, splits, tmp_path / "parts", StopAfter(3)).state == "stopped"
    first = checkpoint.find_latest(tmp_path / "parts" / "checkpoints").tensors("projector")["weight"].clone()
    assert first.shape == (8, 16, 1, 1)
    assert run(settings, splits, tmp_path / "parts").state == "finished"
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    last = checkpoint.find_latest(tmp_path / "parts" / "checkpoints").tensors("projector")["weight"]
    assert not torch.equal(first, last)
    run(config(teacher, DEIT), splits, tmp_path / "without")
    assert digest(tmp_path / "without") != digest(tmp_path / "whole")
    with pytest.raises(UsageError, match="feature maps of several teachers"):
        setup.prepare(config(f"{teacher},{teacher}", distill={"feature_weight": 0.5}), splits)


def test_a_stored_cache_of_another_order_is_not_used(splits, teacher, tmp_path) -> None:
    """Control: with the fingerprint forgotten, another order's answers would have been learnt."""
    cache = {"cache": str(tmp_path / "cache")}
    run(config(teacher, distill=cache), splits, tmp_path / "a")
    header = tmp_path / "cache" / "cache.json"
    other = config(teacher, data_seed=9, distill=cache)
    with pytest.raises(UsageError, match="data_seed"):
        run(other, splits, tmp_path / "b")
    forged = read_header(header.parent)
    assert forged is not None
    forged.fingerprint["data_seed"] = 9
    header.write_text(json.dumps(forged.to_json()))
    run(other, splits, tmp_path / "b")
    run(config(teacher, data_seed=9), splits, tmp_path / "right")
    assert digest(tmp_path / "b") != digest(tmp_path / "right")


def test_a_teacher_that_answers_nan_stops_before_the_update(splits, teacher, tmp_path, monkeypatch) -> None:
    original = Teacher.logits
    asked = []

    def bad(self, images):
        asked.append(1)
        logits = original(self, images)
        return logits * torch.nan if len(asked) == 4 else logits

    monkeypatch.setattr(Teacher, "logits", bad)
    cache = tmp_path / "cache"
    with pytest.raises(NonFinite, match="step 3: the teacher's logits are not finite"):
        run(config(teacher, distill={"cache": str(cache)}), splits, tmp_path / "run")
    monkeypatch.setattr(Teacher, "logits", original)
    settings = config(teacher, distill={"cache": str(cache)})
    trainer = setup.prepare(settings, splits)
    assert trainer.teaching.cache.read(2) is not None
    assert trainer.teaching.cache.read(3) is None  # what was not finite was not kept


@pytest.mark.parametrize(
    ("model", "distill", "message"),
    [
        (CONVMIXER, {"token": True}, "convmixer has no distillation token; choose a distilled model"),
        (DEIT, {"token": False}, "whose head would learn nothing"),
        (DEIT, {"kind": "soft", "label_weight": 0.0}, "learns from the labels alone"),
    ],
)
def test_heads_that_are_missing_or_would_learn_nothing_are_refused(
    model, distill, message, splits, teacher
) -> None:
    with pytest.raises(UsageError, match=message):
        setup.prepare(config(teacher, model, distill=distill), splits)


TWO_PROCESSES = """
import os, sys, torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from isopatch import create_model
from isopatch.training.config import ObjectiveConfig
from isopatch.training.distill_config import DistillConfig
from isopatch.training.objectives import distillation_loss, feature_distillation, labels_loss
from isopatch.training.projector import TaughtStudent

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
rank = dist.get_rank()
for kind in ("none", "hard", "soft", "both"):
    for name in ("deit", "vit"):
        torch.manual_seed(0)
        sizes = dict(dim=16, depth=1, num_heads=2, patch_size=4, image_size=8, num_classes=5)
        model = create_model(name, **sizes, **({"distilled": True} if name == "deit" else {}))
        parallel = DistributedDataParallel(model)  # complains at the second step of a head without gradient
        torch.manual_seed(1 + rank)
        x, targets, teacher = torch.randn(4, 3, 8, 8), torch.eye(5)[:4], torch.randn(4, 5)
        for _ in range(2):
            heads = parallel(x, heads=True)
            if kind == "none":
                loss = labels_loss(heads, targets, ObjectiveConfig())
            else:
                distill = DistillConfig(teacher="t", kind=kind)
                loss = distillation_loss(heads, targets, teacher, ObjectiveConfig(), distill)
            model.zero_grad()
            loss.backward()
        without = [n for n, p in model.named_parameters() if p.grad is None]
        assert not without, (kind, name, without)
        for parameter in model.parameters():
            both = [torch.empty_like(parameter.grad) for _ in range(2)]
            dist.all_gather(both, parameter.grad)
            assert torch.equal(*both)
# Feature maps too: student and projection are one module then.
model = create_model("deit", **sizes, distilled=True)
taught = TaughtStudent(model, torch.nn.Conv2d(16, 3, kernel_size=1))
parallel = DistributedDataParallel(taught)
for _ in range(2):
    heads, projected = parallel(x)
    loss = distillation_loss(heads, targets, teacher, ObjectiveConfig(), DistillConfig(teacher="t"))
    loss = loss + feature_distillation(projected, torch.randn(4, 3, 5, 5))
    taught.zero_grad()
    loss.backward()
assert all(p.grad is not None for p in taught.parameters())
# Control: a class head that learns nothing is what DDP complains about.
model = DistributedDataParallel(create_model("deit", **sizes, distilled=True))
try:
    for _ in range(2):
        model(x, heads=True)["dist"].sum().backward()
except RuntimeError as error:
    assert "Expected to have finished reduction" in str(error)
else:
    raise SystemExit("a head without gradient went unnoticed")
dist.destroy_process_group()
"""


def test_every_head_has_a_gradient_in_two_processes(tmp_path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / "meeting")]
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    results = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = {"distill.teacher": str(tmp_path / "nowhere"), "model.image_size": 8, "model.patch_size": 2}
    settings |= {"model.dim": 8, "model.depth": 1, "model.kernel_size": 3}
    refused = configure(model="convmixer", recipe="small", settings=settings)
    with pytest.raises(UsageError, match="no such file or folder"):
        train(refused, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # a folder that was there stays
    with pytest.raises(UsageError, match="no such file or folder"):
        train(refused, out=tmp_path / "run", quiet=True)
    assert (tmp_path / "run").is_dir()


def test_the_log_says_who_teaches_what(splits, teacher, tmp_path) -> None:
    run(config(teacher, DEIT, epochs=1, distill={"kind": "both"}), splits, tmp_path / "run")
    said = (tmp_path / "run" / "log.txt").read_text()
    terms = "labels 0.4, hard 0.5, soft 0.1"
    assert f"taught by {teacher} through the distillation token's head: {terms}" in said

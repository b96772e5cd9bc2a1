"""The loop: what is interrupted and resumed ends with the same bits; what is not finite stops."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from tests.training.runs import StopAfter, digest, run

from isopatch.data.loader import TrainLoader
from isopatch.data.open import open_data
from isopatch.errors import EXIT_SAVED_EARLY, UsageError
from isopatch.models.load import load
from isopatch.training import checkpoint, finish, guard, loop
from isopatch.training.config import RunConfig
from isopatch.training.evaluate import Interrupted
from isopatch.training.runfolder import RunFolder
from isopatch.training.stop import StopRequest

CONVMIXER = {"name": "convmixer", "dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
VIT = {
    "name": "vit",
    "dim": 16,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "image_size": 8,
    "drop_path": 0.2,
}
AUGMENT = {"crop": "padded", "padding": 1, "flip": 0.5}


@pytest.fixture(scope="module")
def splits():
    return open_data("digits", val_fraction=0.1)


def config(model=CONVMIXER, **changes):
    base = {
        "model": model,
        "batch_size": 256,
        "epochs": 3,
        "augment": AUGMENT,
        "threads": 1,
        "checkpoint": {"every_steps": 4},
    }
    return RunConfig.model_validate(base | changes)


CASES = {
    "convmixer, accumulation": config(accumulate=2),
    "vit, mixup, drop path, ema": config(VIT, mix={"mixup": 0.8, "cutmix": 1.0}, ema={"decay": 0.9}),
    "a length in steps, inside an epoch": config(steps=13),
    "sgd, clipping, bf16": config(optimizer={"name": "sgd", "lr": 0.1, "clip_norm": 1.0}, precision="bf16"),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_twice_ends_with_the_same_bits(case, splits, tmp_path):
    settings = CASES[case]
    run(settings, splits, tmp_path / "whole")
    first = run(settings, splits, tmp_path / "parts", StopAfter(2))
    assert (first.state, first.exit_code) == ("stopped", EXIT_SAVED_EARLY)
    assert run(settings, splits, tmp_path / "parts", StopAfter(5)).state == "stopped"
    assert run(settings, splits, tmp_path / "parts").state == "finished"
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_two_workers_change_nothing(splits, tmp_path):
    run(config(epochs=1), splits, tmp_path / "none")
    run(config(epochs=1, data={"workers": 2}), splits, tmp_path / "two")
    assert digest(tmp_path / "none") == digest(tmp_path / "two")


def test_control_without_the_samplers_position_the_bits_differ(splits, tmp_path, monkeypatch):
    class FromTheStart(TrainLoader):
        def __iter__(self):
            position = self._steps
            self._steps = range(0, len(position))
            for batch, step in zip(super().__iter__(), position, strict=True):
                yield replace(batch, step=step, view=step)

    settings = CASES["convmixer, accumulation"]
    run(settings, splits, tmp_path / "whole")
    run(settings, splits, tmp_path / "parts", StopAfter(2))
    monkeypatch.setattr(loop, "TrainLoader", FromTheStart)
    run(settings, splits, tmp_path / "parts")
    assert digest(tmp_path / "parts") != digest(tmp_path / "whole")


def test_interrupted_validation_is_repeated_and_changes_nothing(splits, tmp_path, monkeypatch):
    run(config(epochs=2), splits, tmp_path / "whole")
    stop = StopRequest()

    def interrupted(*args, **kwargs):
        stop._signal = signal.SIGTERM
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(finish, "evaluate", interrupted)
        assert run(config(epochs=2), splits, tmp_path / "parts", stop).exit_code == 143
    run(config(epochs=2), splits, tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    evaluations = [json.loads(x) for x in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in evaluations if row["kind"] == "eval"] == [5, 10]


def test_a_finished_run_resumed_does_nothing(splits, tmp_path, monkeypatch):
    run(config(epochs=1), splits, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != "log.txt"}
    monkeypatch.setattr(loop, "train_step", lambda *a: pytest.fail("a step was taken"))
    again = run(config(epochs=1), splits, tmp_path)
    assert again.state == "finished" and again.summary["final"]["test"]["num_images"] == len(splits.test)
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != "log.txt"}
    assert {p for p in before if p.name != ".lock"} <= set(after)
    assert all(after[p] == before[p] for p in before if p.name != ".lock")


def test_resuming_with_another_configuration_is_refused_by_key(splits, tmp_path):
    run(config(), splits, tmp_path, StopAfter(2))
    with pytest.raises(UsageError, match=r"optimizer.lr was 0.001, now 0.5"):
        run(config(optimizer={"lr": 0.5}), splits, tmp_path)
    assert run(config(data={"workers": 1}), splits, tmp_path).state == "finished"


def test_resuming_with_other_data_is_refused(splits, tmp_path):
    run(config(), splits, tmp_path, StopAfter(2))
    with pytest.raises(UsageError, match=r"data .* changed"):
        run(config(), open_data("digits", val_fraction=0.2), tmp_path)


def test_without_validation_the_last_weights_are_the_final_ones(tmp_path):
    whole = open_data("digits", val_fraction=0.0)
    result = run(config(epochs=1), whole, tmp_path)
    assert result.summary["selection"].startswith("no validation split")
    last = checkpoint.find_latest(tmp_path / "checkpoints").tensors("model")
    best = load(tmp_path / "best").state_dict()
    assert all(torch.equal(best[name], tensor) for name, tensor in last.items())


def test_the_best_validated_weights_are_kept_and_load_alone(splits, tmp_path):
    result = run(config(epochs=4), splits, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(row["top1"] for row in rows if row["kind"] == "eval")
    assert result.summary["final"]["val"]["top1"] == best
    model = load(tmp_path / "best")
    assert model.spec.classes == splits.classes


@pytest.mark.parametrize("what", ["pixel", "weight", "gradient", "buffer", "learning rate"])
def test_what_is_not_finite_stops_before_the_update(what, splits, tmp_path, monkeypatch):
    run(config(), splits, tmp_path, StopAfter(4))
    seen = {}
    original = loop.train_step

    def sabotaged(trainer, batch):
        model = trainer.model
        with torch.no_grad():
            if what == "pixel":
                batch.images[3, 0, 0, 0] = float("nan")
            elif what == "weight":
                next(model.parameters()).view(-1)[0] = float("inf")
            elif what == "gradient":
                next(model.parameters()).register_hook(lambda g: g * float("nan"))
            elif what == "buffer":
                next(b for b in model.buffers() if b.is_floating_point()).view(-1)[0] = float("nan")
        if what == "learning rate":
            monkeypatch.setattr(type(trainer.schedule), "lr", lambda self, step: 1e30)
        seen["before"] = [p.detach().clone() for p in model.parameters()]
        seen["model"] = model
        return original(trainer, batch)

    monkeypatch.setattr(loop, "train_step", sabotaged)
    with pytest.raises(guard.NonFinite, match=r"step 4: .*nothing was updated"):
        run(config(), splits, tmp_path)
    pairs = zip(seen["before"], seen["model"].parameters(), strict=True)
    assert all(torch.equal(a, b.detach()) for a, b in pairs)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    last = checkpoint.find_latest(tmp_path / "checkpoints").tensors("model")
    assert all(torch.isfinite(t).all() for t in last.values())


def test_pretrained_weights_bring_their_input_contract_and_the_configuration_wins(splits, tmp_path):
    first = config(epochs=1, input={"mean": (0.3, 0.3, 0.3), "std": (0.2, 0.2, 0.2)})
    run(first, splits, tmp_path / "source")
    again = config(epochs=1, weights=str(tmp_path / "source"), input={"std": (0.4, 0.4, 0.4)})
    run(again, splits, tmp_path / "tuned")
    contract = load(tmp_path / "tuned").spec.input
    assert contract.mean == (0.3, 0.3, 0.3) and contract.std == (0.4, 0.4, 0.4)


def test_a_fine_tuning_run_is_resumed_without_its_source(splits, tmp_path):
    import shutil

    run(config(epochs=1), splits, tmp_path / "source")
    tuned = config(weights=str(tmp_path / "source"))
    run(tuned, splits, tmp_path / "whole")
    run(tuned, splits, tmp_path / "parts", StopAfter(2))
    shutil.rmtree(tmp_path / "source")
    run(tuned, splits, tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lamb_is_saved_and_resumed_to_the_same_bits(splits, tmp_path):
    settings = config(optimizer={"name": "lamb", "lr": 0.01})
    run(settings, splits, tmp_path / "whole")
    run(settings, splits, tmp_path / "parts", StopAfter(2))
    run(settings, splits, tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_overwriting_waits_until_the_new_run_is_possible(splits, tmp_path):
    run(config(epochs=1), splits, tmp_path)
    folder = RunFolder(tmp_path)
    with folder.hold(), pytest.raises(UsageError, match="batch_size"):
        loop.train_run(config(batch_size=5000), splits, folder, StopRequest(), overwrite=True, quiet=True)
    assert load(tmp_path).spec.name == "convmixer"
    with folder.hold():
        again = loop.train_run(config(epochs=2), splits, folder, StopRequest(), overwrite=True, quiet=True)
    assert again.step == 10 and "MACs" in (tmp_path / "log.txt").read_text()


def test_any_failure_is_recorded(splits, tmp_path, monkeypatch):
    def broken(trainer, batch):
        raise MemoryError

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(MemoryError):
        run(config(), splits, tmp_path)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["message"]) == ("failed", 1, "MemoryError")


def test_a_length_in_steps_ends_inside_an_epoch_and_is_evaluated_there(splits, tmp_path):
    run(config(steps=7, ema={"decay": 0.5}), splits, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sorted({row["step"] for row in rows if row["kind"] == "eval"}) == [5, 7]  # 5 steps an epoch
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["images_seen"], summary["epochs"]) == (7, 7 * 256, 1.4)


def test_as_many_steps_as_the_epochs_have_end_with_the_same_bits(splits, tmp_path):
    run(config(epochs=2), splits, tmp_path / "epochs")
    run(config(steps=10), splits, tmp_path / "steps")
    assert digest(tmp_path / "steps") == digest(tmp_path / "epochs")


def test_a_length_in_steps_cannot_change_on_resume(splits, tmp_path):
    run(config(steps=7), splits, tmp_path, StopAfter(2))
    with pytest.raises(UsageError, match="steps was 7, now 8"):
        run(config(steps=8), splits, tmp_path)

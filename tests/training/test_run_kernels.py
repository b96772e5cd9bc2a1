"""A run's kernels: chosen once, recorded, replayed; where they cannot be, one line says so."""

import json
import logging

import pytest
import torch
from tests.training.runs import StopAfter, run

from isopatch import api
from isopatch.data.open import open_data
from isopatch.errors import UsageError
from isopatch.kernels import native
from isopatch.kernels.native.library import INSTRUCTIONS, loaded
from isopatch.models.load import load
from isopatch.models.spec import build
from isopatch.training import checkpoint, setup, twins
from isopatch.training.config import RunConfig
from isopatch.training.ema import restore_in_place
from isopatch.training.evaluate import evaluate
from isopatch.training.hardware import Choices
from isopatch.training.plan import plan_run

MODEL = {"name": "convmixer", "dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 2, "image_size": 8}


@pytest.fixture(scope="module")
def splits():
    return open_data("digits", val_fraction=0.1)


def config(**changes):
    base = {"model": MODEL, "batch_size": 256, "epochs": 2, "threads": 1, "ema": {"decay": 0.9}}
    return RunConfig.model_validate(base | changes)


def tensors(path):
    last = checkpoint.find_latest(path / "checkpoints")
    groups = ("model", "optimizer", "ema")
    return {f"{group}/{name}": t for group in groups for name, t in last.tensors(group).items()}


def same(a, b):
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def recorded(path):
    choices = checkpoint.find_latest(path / "checkpoints").document("state")["choices"]
    return choices["kernels"], choices["instruction_set"]


def test_what_ran_is_logged_once_and_recorded_everywhere(needs_native, splits, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "isopatch"):
        run(config(epochs=1), splits, tmp_path)
    lines = [line for line in caplog.messages if line.startswith("kernels ")]
    assert len(lines) == 1 and lines[0].startswith("kernels native, fp32: ")
    expected = ("native", native.instructions())
    assert recorded(tmp_path) == expected
    for file in ("env.json", "summary.json"):
        document = json.loads((tmp_path / file).read_text())
        document = document.get("choices", document)
        assert (document["kernels"], document["instruction_set"]) == expected
    assert json.loads((tmp_path / "evaluation-test.json").read_text())["kernels"] == "native"


def test_plain_training_on_a_cpu_keeps_its_memory_too(splits, monkeypatch):
    calls = []
    monkeypatch.setattr(twins, "keep_freed_memory", lambda: calls.append(1))
    assert plan_run(config(kernels="plain"), splits)["kernels"] == "plain"
    assert calls == [1]


@pytest.mark.parametrize(("threads", "precision"), [(1, "bf16"), (2, "fp32")])
def test_stopped_and_resumed_under_native_kernels_ends_with_the_same_bits(
    threads, precision, needs_native, splits, tmp_path
):
    settings = config(kernels="native", threads=threads, precision=precision)
    run(settings, splits, tmp_path / "whole")
    assert run(settings, splits, tmp_path / "parts", StopAfter(2)).state == "stopped"
    assert run(settings, splits, tmp_path / "parts", StopAfter(5)).state == "stopped"
    assert run(settings, splits, tmp_path / "parts").state == "finished"
    assert recorded(tmp_path / "parts")[0] == "native"
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_what_triton_kernels_measured_is_recorded_and_replayed(splits, tmp_path):
    """A GPU times the forms when a shape first comes; here they are given, and all else is real."""
    pytest.importorskip("isopatch.kernels.triton.blocks", exc_type=ImportError)
    settings = config(kernels="triton", precision="fp32")
    began = setup.prepare(settings, splits)
    forms = {"float32 k3 4x4 c8 training": "direct-4x16x64"}
    began.model.blocks.choices.update(forms)
    tensors, documents = setup.snapshot(began)
    checkpoint.write_checkpoint(tmp_path, 0, tensors=tensors, documents=documents)
    written = checkpoint.find_latest(tmp_path)
    assert written.document("state")["choices"]["forms"] == {"blocks": forms}
    assert setup.prepare(settings, splits, resume=written).model.blocks.choices == forms
    assert setup.prepare(settings, splits).model.blocks.choices == {}


def test_a_run_that_began_plain_goes_on_plain_where_native_kernels_are_there(splits, tmp_path, request):
    settings = config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: "there is none")
        run(settings, splits, tmp_path / "whole")
        run(settings, splits, tmp_path / "parts", StopAfter(2))
    request.getfixturevalue("needs_native")
    run(settings, splits, tmp_path / "parts")
    assert recorded(tmp_path / "parts") == ("plain", None)
    assert same(tmp_path / "whole", tmp_path / "parts")
    run(settings, splits, tmp_path / "native")  # the control: these bits are not those of the kernels
    assert not same(tmp_path / "whole", tmp_path / "native")


def test_choices_of_an_older_checkpoint_are_plain():
    old = Choices(**{"device": "cpu", "precision": "bf16", "threads": 2})
    assert (old.kernels, old.instruction_set) == ("plain", None)


def test_recorded_kernels_that_are_not_here_stop_with_one_line(needs_native, splits, tmp_path, monkeypatch):
    run(config(), splits, tmp_path, StopAfter(2))
    monkeypatch.setattr(native, "library", lambda: "isopatch was installed without them")
    with pytest.raises(UsageError) as error:
        run(config(), splits, tmp_path)
    line = str(error.value)
    assert "\n" not in line
    for part in ("began with native kernels", "installed without them", "--kernels plain"):
        assert part in line
    monkeypatch.undo()
    with pytest.raises(UsageError, match="kernels was 'auto', now 'plain'"):
        run(config(kernels="plain"), splits, tmp_path)


@pytest.mark.parametrize("replayed", [True, False])
def test_the_recorded_instruction_set_is_used_again(replayed, needs_native, splits, tmp_path, monkeypatch):
    best = loaded().supported
    if best == "avx2":
        pytest.skip("this CPU has one instruction set for kernels")
    native.use_instructions("avx2")
    run(config(), splits, tmp_path / "whole")
    run(config(), splits, tmp_path / "parts", StopAfter(2))
    native.use_instructions(best)
    if not replayed:  # the control: nobody puts the recorded one back
        monkeypatch.setattr(native, "use_instructions", lambda wanted: wanted)
    run(config(), splits, tmp_path / "parts")
    assert native.instructions() == ("avx2" if replayed else best)
    assert same(tmp_path / "whole", tmp_path / "parts") is replayed


def test_an_instruction_set_this_cpu_lacks_is_warned_of_once(
    needs_native, splits, tmp_path, caplog, monkeypatch
):
    run(config(), splits, tmp_path, StopAfter(2))
    choices = Choices("cpu", "fp32", 1, "native", "avx1024_tensor")
    monkeypatch.setattr(setup, "recorded_choices", lambda resume: choices)
    with caplog.at_level(logging.WARNING, "isopatch"):
        run(config(), splits, tmp_path)
    lines = [line for line in caplog.messages if "instructions" in line]
    assert len(lines) == 1 and "avx1024_tensor" in lines[0] and loaded().supported in lines[0]
    assert recorded(tmp_path) == ("native", loaded().supported)  # what ran


def test_a_training_leaves_the_instruction_set_as_it_was(needs_native, tmp_path):
    settings = config(epochs=1, data={"val_fraction": 0.0})
    native.use_instructions("avx2")
    api.train(settings, out=tmp_path, max_minutes=1e-6, quiet=True)
    best = native.use_instructions(INSTRUCTIONS[-1])
    api.train(out=tmp_path, resume="auto", quiet=True)
    assert recorded(tmp_path) == ("native", "avx2") and native.instructions() == best


def test_recomputed_activations_leave_the_blocks_plain(splits, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "isopatch"):
        run(config(epochs=1, activation_checkpointing=True), splits, tmp_path)
    assert recorded(tmp_path) == ("plain", None)
    assert "kernels plain: activation_checkpointing recomputes the plain blocks" in caplog.messages


def test_what_is_reported_at_the_end_is_float32_whatever_trained(needs_native, tmp_path):
    splits = open_data("digits", val_fraction=0.0)
    result = run(config(precision="bf16", epochs=1), splits, tmp_path)
    spec = load(tmp_path).spec
    average = build(spec)
    restore_in_place(average, checkpoint.find_latest(tmp_path / "checkpoints").tensors("ema"))
    for key, plain in (("test", load(tmp_path)), ("test_ema", average)):
        wanted = evaluate(plain, splits.test, spec.input, classes=splits.classes)
        assert result.summary["final"][key]["nll"] == pytest.approx(wanted.nll, rel=1e-6)

"""Every contender computes the plain model's logits or gradients; one that does not is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isopatch.bench import field, modules
from isopatch.bench.build import build_runner, deviation
from isopatch.bench.check import gradient_error, relative_error
from isopatch.bench.field import assemble
from isopatch.bench.request import Request
from isopatch.bench.setting import Setting, Task
from isopatch.bench.subject import Subject, open_subject

INFER, TRAIN = Task("infer", 3), Task("train", 6)


@pytest.mark.parametrize("which", ["subject", "deit_subject"])
@pytest.mark.parametrize("task", [INFER, TRAIN], ids=["infer", "train"])
@pytest.mark.parametrize("contender", ["isopatch-plain", "timm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_modules_compute_the_same(
    which: str, task: Task, contender: str, precision: Any, layout: Any, request: pytest.FixtureRequest
) -> None:
    subject: Subject = request.getfixturevalue(which)
    runner = build_runner(Setting(contender, precision, 1, layout), task, subject)
    error, bound = deviation(runner, subject)
    assert error <= bound
    assert precision == "fp32" or error > 1e-4  # it did compute in bf16
    runner.call()


@pytest.mark.parametrize("contender", ["openvino-latency", "openvino-throughput", "onnxruntime"])
@pytest.mark.parametrize("which", ["subject", "deit_subject"])
def test_runtimes_compute_the_same(contender: str, which: str, request: pytest.FixtureRequest) -> None:
    for package in ("openvino",) if contender.startswith("openvino") else ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    subject: Subject = request.getfixturevalue(which)
    runner = build_runner(Setting(contender, "fp32", 1), INFER, subject)
    error, bound = deviation(runner, subject)
    assert error <= bound
    runner.call()
    assert runner.note is not None and "graph of timm's model" in runner.note
    assert runner.images % INFER.batch == 0


def test_a_model_that_timm_lacks_gives_runtimes_our_own_graph() -> None:
    pytest.importorskip("openvino")
    sizes = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "image_size": 16, "num_classes": 5}
    subject = open_subject(
        "vit", arguments={**sizes, "position": "sincos-2d", "class_token": False, "pool": "norm-mean"}
    )
    runner = build_runner(Setting("openvino-latency", "fp32", 1), INFER, subject)
    assert runner.note == "graph of isopatch's plain model"
    error, bound = deviation(runner, subject)
    assert error <= bound


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.parametrize("task", [INFER, TRAIN], ids=["infer", "train"])
def test_compiled_modules_compute_the_same(
    task: Task, subject: Subject, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = build_runner(Setting("timm-compile", "fp32", 1, "nchw"), task, subject)
    error, bound = deviation(runner, subject)
    assert error <= bound
    runner.call()
    assert "AUTOTUNE" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_wrong_contender_is_not_timed(
    mode: Any, precision: Any, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: timm's model with the wrong activation, otherwise the same weights."""
    request = Request(
        models=("convmixer",), mode=mode, precisions=(precision,), kernels="plain", peers=("timm",)
    )
    task = Task(mode, 6)
    right = assemble(request, task, subject, (1,))
    assert {present.runner.setting.contender for present in right.present} == {"isopatch-plain", "timm"}
    assert right.absent == []

    honest = modules.timm_model

    def dishonest(spec: Any) -> nn.Module:
        model = honest(spec)
        for block in model.blocks:
            block[2] = nn.ReLU()
        return model

    monkeypatch.setattr(modules, "timm_model", dishonest)
    wrong = assemble(request, task, subject, (1,))
    assert {present.runner.setting.contender for present in wrong.present} == {"isopatch-plain"}
    assert {absent.state for absent in wrong.absent} == {"wrong"} and "deviate" in wrong.absent[0].why


def test_a_peer_that_breaks_is_listed_and_ours_that_breaks_is_an_error(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = field.build_runner

    def breaks(contender: str) -> Any:
        def broken(setting: Setting, task: Task, subject: Subject) -> Any:
            if setting.contender == contender:
                raise KeyError("two\nlines")
            return build(setting, task, subject)

        return broken

    request = Request(models=("convmixer",), kernels="plain", peers=("timm",))
    monkeypatch.setattr(field, "build_runner", breaks("timm"))
    found = assemble(request, INFER, subject, (1,))
    assert {absent.state for absent in found.absent} == {"failed"} and "KeyError" in found.absent[0].why
    monkeypatch.setattr(field, "build_runner", breaks("isopatch-plain"))
    with pytest.raises(KeyError):
        assemble(request, INFER, subject, (1,))


def test_a_model_that_timm_does_not_have_is_said() -> None:
    subject = open_subject("cifar_resnet20")
    request = Request(models=("cifar_resnet20",), kernels="plain", peers=("timm",), precisions=("fp32",))
    found = assemble(request, INFER, subject, (1,))
    assert found.absent[0].state == "cannot" and "timm has no" in found.absent[0].why


def test_errors_see_what_is_not_finite_or_missing() -> None:
    ones = torch.ones(3)
    assert relative_error(ones, ones) == 0.0
    assert relative_error(1.1 * ones, ones) == pytest.approx(0.1)
    assert relative_error(ones * float("nan"), ones) == float("inf")
    assert relative_error(torch.ones(2), ones) == float("inf")
    assert gradient_error({"a": ones}, {"a": ones}) == 0.0
    assert gradient_error({}, {"a": ones}) == float("inf")
    assert gradient_error({"a": ones, "b": ones}, {"a": ones}) == float("inf")
    assert gradient_error({"a": torch.ones(2)}, {"a": ones}) == float("inf")

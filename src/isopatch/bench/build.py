"""From a setting to a runner that was seen to compute the right thing."""

from __future__ import annotations

import torch

from isopatch.bench.check import WITHIN, gradient_error, relative_error
from isopatch.bench.forward import forward_runner
from isopatch.bench.runner import Runner
from isopatch.bench.runtimes import onnxruntime_runner, openvino_runner
from isopatch.bench.setting import Setting, Task
from isopatch.bench.subject import CHECKED, Subject
from isopatch.bench.training_step import training_runner


def build_runner(setting: Setting, task: Task, subject: Subject) -> Runner:
    """Build a contender for its number of threads, which PyTorch is set to.

    Raises UsageError where it cannot serve the model, and whatever a peer's own code raises.
    """
    torch.set_num_threads(setting.threads)
    if setting.contender.startswith("openvino-"):
        return openvino_runner(setting, task, subject)
    if setting.contender == "onnxruntime":
        return onnxruntime_runner(setting, task, subject)
    if task.mode == "train":
        return training_runner(setting, task, subject)
    return forward_runner(setting, task, subject)


def deviation(runner: Runner, subject: Subject) -> tuple[float, float]:
    """Return (how far a contender is from the plain model in fp32, how far it may be); see `check`."""
    bound = WITHIN[runner.setting.precision]
    if runner.gradients is not None:
        wanted = subject.gradients(runner.images)
        return gradient_error(runner.gradients(), wanted), bound
    assert runner.logits is not None
    found = runner.logits(subject.pictures(CHECKED))
    return relative_error(found, subject.logits), bound

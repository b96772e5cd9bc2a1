"""OpenVINO and ONNX Runtime on the CPU: the graph of the plain module, exported here."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from isopatch.bench.modules import graph_module
from isopatch.bench.runner import Runner, in_batches
from isopatch.bench.setting import Setting, Task
from isopatch.bench.subject import Subject
from isopatch.errors import UsageError

PASSES_IN_FLIGHT = 4  # of each stream, in one call of the throughput contender


def openvino_runner(setting: Setting, task: Task, subject: Subject) -> Runner:
    """Build OpenVINO's CPU runtime with its latency or its throughput hint.

    With the throughput hint one call is several batches in flight, as many streams as OpenVINO chooses.
    Raises UsageError where this CPU has no bf16 for it.
    """
    import openvino

    core = openvino.Core()
    if setting.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UsageError("OpenVINO says that this CPU has no bf16")
    module, graph = graph_module(subject)
    x = subject.pictures(task.batch)
    with _quiet():
        converted = openvino.convert_model(_exported(module, x))
        hint = setting.contender.removeprefix("openvino-").upper()
        options = {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_NUM_THREADS": setting.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if setting.precision == "bf16" else "f32",
        }
        network = core.compile_model(converted, "CPU", options)
    request = network.create_infer_request()
    array = x.numpy()

    def forward(pictures: Tensor) -> Tensor:
        return torch.from_numpy(request.infer({0: pictures.numpy()})[network.output(0)].copy())

    def logits(pictures: Tensor) -> Tensor:
        return in_batches(forward, pictures, task.batch)

    if hint == "LATENCY":

        def call() -> None:
            request.infer({0: array}, share_inputs=True)

        return Runner(setting, call, task.batch, logits=logits, note=graph)

    streams = int(network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    queue = openvino.AsyncInferQueue(network, streams)
    passes = PASSES_IN_FLIGHT * streams

    def calls() -> None:
        for _ in range(passes):
            queue.start_async({0: array}, share_inputs=True)
        queue.wait_all()

    note = f"{graph}; {streams} requests in flight"
    return Runner(setting, calls, task.batch * passes, logits=logits, note=note)


def onnxruntime_runner(setting: Setting, task: Task, subject: Subject) -> Runner:
    """Build ONNX Runtime's CPU provider, every graph optimisation on, fp32."""
    import onnxruntime

    module, graph = graph_module(subject)
    x = subject.pictures(task.batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.log_severity_level = 3
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
        assert program is not None
        program.save(str(file))
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    array = x.numpy()

    def forward(pictures: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: pictures.numpy()})[0])

    def call() -> None:
        session.run(None, {name: array})

    def logits(pictures: Tensor) -> Tensor:
        return in_batches(forward, pictures, task.batch)

    return Runner(setting, call, task.batch, logits=logits, note=graph)


def _exported(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval(), (x,))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters print and warn about their own parts."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield

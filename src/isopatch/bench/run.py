"""Measure models, and say it all in one document of plain JSON values."""

from __future__ import annotations

import functools
import gc
import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from typing import Any

import torch

from isopatch.bench.build import build_runner
from isopatch.bench.field import Present, assemble, check_kernels
from isopatch.bench.machine import describe_machine
from isopatch.bench.matrix import matrix_entrant
from isopatch.bench.memory import peak_memory_mb
from isopatch.bench.request import BATCH, Request
from isopatch.bench.setting import Setting, Task
from isopatch.bench.subject import Subject, open_subject
from isopatch.bench.turns import TURN_SECONDS, Entrant, call_times, percentile, spread, take_turns
from isopatch.errors import IsopatchError, UsageError
from isopatch.kernels.memory import keep_freed_memory, release_freed_memory
from isopatch.kernels.twin import Precision
from isopatch.training.hardware import available_cores, busy_note

log = logging.getLogger("isopatch")

LATENCY_SECONDS = 3.0
KEPT_AT_MOST = 0.5  # of the machine's memory: with more, a contender gives back what is free to the next one
# A training step is a forward pass, and a backward pass of twice its products.
PASSES = {"infer": 1, "train": 3}

MatrixKey = tuple[Precision, int]


def bench(request: Request) -> dict[str, Any]:
    """Measure every model of a request, each beside all its peers.

    Returns request, machine and, for each model, its facts, the contenders that were timed, those that were
    not with the reason, and `ratio_to_best_peer`. Raises UsageError for what cannot be measured at all.
    """
    check_kernels(request.kernels)
    if request.rounds < 1:
        raise UsageError(f"--rounds {request.rounds}: give at least 1")
    if request.device not in ("cpu", "cuda"):
        raise UsageError(f"--device {request.device}: the bench runs on cpu or cuda")
    if request.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA GPU; use --device cpu")
    threads = request.threads or (available_cores(),)
    if max(threads) > available_cores():
        raise UsageError(
            f"--threads {max(threads)}: this process may use {available_cores()} cores; give at most that"
        )
    task = Task(request.mode, request.batch or BATCH[request.mode], request.device)
    note = busy_note(max(threads))
    if note is not None:
        log.warning("%s", note)
    kept = task.device == "cpu" and keep_freed_memory()  # as a training does; for all contenders alike
    before = torch.get_num_threads()
    try:
        rows = [_measure(source, request, task, threads) for source in request.models]
    finally:
        torch.set_num_threads(before)
    return {
        "mode": task.mode,
        "batch": task.batch,
        "device": task.device,
        "threads": list(threads),
        "rounds": request.rounds,
        "seed": request.seed,
        "kernels": request.kernels,
        "precisions": list(request.precisions),
        "busy": note,
        "freed_memory_kept": kept,
        "machine": describe_machine(task.device),
        "models": rows,
    }


def _measure(source: str, request: Request, task: Task, threads: tuple[int, ...]) -> dict[str, Any]:
    how = {"image_size": request.image_size, "arguments": dict(request.arguments), "seed": request.seed}
    subject = open_subject(source, **how)  # type: ignore[arg-type]
    facts = subject.facts
    log.info("%s: %s, %.3f GMACs a picture", source, facts["name"], facts["macs"] / 1e9)
    release = functools.partial(release_freed_memory, above=KEPT_AT_MOST)
    field = assemble(request, task, subject, threads, before=release)
    matrices: dict[MatrixKey, Entrant] = {
        (precision, number): matrix_entrant(precision, number, task.device)
        for precision in request.precisions
        for number in threads
    }
    entrants = [
        Entrant(
            present.runner.call,
            present.runner.images,
            present.runner.setting.threads,
            group=present.runner.setting.contender,
        )
        for present in field.present
    ]
    take_turns(
        [*entrants, *matrices.values()],
        rounds=request.rounds,
        seed=request.seed,
        turn_seconds=TURN_SECONDS,
        before=release,
        between=lambda done: log.info("%s: round %d of %d", source, done, request.rounds),
    )
    operations = 2 * facts["macs"] * PASSES[task.mode]
    rows = [
        _row(present, entrant, matrices, operations)
        for present, entrant in zip(field.present, entrants, strict=True)
    ]
    best = _best_of_each(rows)
    ratio = _compare(rows, entrants, best)
    settings = [present.runner.setting for present in field.present]
    absent = [asdict(each) for each in field.absent]
    del field, entrants  # and with them every contender's weights
    gc.collect()
    for index in best.values():
        rows[index] |= _closer(
            rows[index], settings[index], subject, {"source": source, **how}, task, request
        )
    return {
        "source": source,
        "model": facts["name"],
        "architecture": facts["architecture"],
        "image_size": facts["image_size"],
        "parameters": facts["parameters"],
        "macs": facts["macs"],
        "accuracy": subject.accuracy,
        "matrix_gflops": [
            {
                "precision": precision,
                "threads": number,
                "gflops": statistics.median(matrix.rates) / 1e9,
                **{key: value / 1e9 for key, value in spread(matrix.rates).items()},
            }
            for (precision, number), matrix in matrices.items()
        ],
        "contenders": rows,
        "absent": absent,
        **ratio,
    }


def _row(
    present: Present, entrant: Entrant, matrices: dict[MatrixKey, Entrant], operations: int
) -> dict[str, Any]:
    setting = present.runner.setting
    rates = [rate for rate in entrant.rates if not isnan(rate)]
    matrix = matrices[setting.precision, setting.threads].rates
    shares = [rate * operations / most for rate, most in zip(rates, matrix, strict=False)]
    return {
        **setting.to_json(),
        "ours": setting.ours,
        "best": False,
        "images_per_second": statistics.median(rates),
        "spread": spread(rates),
        "n": len(rates),
        "share_of_matrix_rate": statistics.median(shares),
        "error": present.error,
        "latency_ms": None,
        "peak_memory_mb": None,
        "ratio_to_best_peer": None,
        "note": present.runner.note,
    }


def _best_of_each(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The fastest setting of each contender, marked; among those that ran every round."""
    best: dict[str, int] = {}
    for index, row in enumerate(rows):
        held = best.get(row["contender"])
        if held is None or (row["n"], row["images_per_second"]) > (
            rows[held]["n"],
            rows[held]["images_per_second"],
        ):
            best[row["contender"]] = index
    for index in best.values():
        rows[index]["best"] = True
    return best


def _compare(rows: list[dict[str, Any]], entrants: Sequence[Entrant], best: dict[str, int]) -> dict[str, Any]:
    """Set ours against the fastest peer, round by round: the median of the ratios, and their spread."""
    peers = [index for name, index in best.items() if not rows[index]["ours"]]
    mine = [index for name, index in best.items() if rows[index]["ours"]]
    found: dict[str, Any] = {
        "best": None,
        "best_peer": None,
        "ratio_to_best_peer": None,
        "ratio_spread": None,
    }
    if mine:
        fastest = max(mine, key=lambda index: rows[index]["images_per_second"])
        found["best"] = rows[fastest]["contender"]
    if not peers:
        return found
    peer = max(peers, key=lambda index: rows[index]["images_per_second"])
    found["best_peer"] = rows[peer]["contender"]
    for index, row in enumerate(rows):
        if row["ours"]:
            pairs = zip(entrants[index].rates, entrants[peer].rates, strict=True)
            ratios = [ours / theirs for ours, theirs in pairs if not isnan(ours)]
            row["ratio_to_best_peer"] = statistics.median(ratios)
            if mine and index == fastest:
                found["ratio_to_best_peer"] = row["ratio_to_best_peer"]
                found["ratio_spread"] = spread(ratios)
    return found


def _closer(
    row: dict[str, Any],
    setting: Setting,
    subject: Subject,
    how: dict[str, Any],
    task: Task,
    request: Request,
) -> dict[str, Any]:
    """Latency at batch 1 and peak memory of a contender's fastest setting."""
    found: dict[str, Any] = {}
    if task.mode == "infer" and setting.contender != "openvino-throughput":  # its calls are many batches
        log.info("latency at batch 1: %s", setting)
        runner = build_runner(setting, Task("infer", 1, task.device), subject)
        runner.call()
        times = call_times(runner.call, threads=setting.threads, seconds=LATENCY_SECONDS)
        found["latency_ms"] = {
            "p50": 1000 * percentile(times, 0.5),
            "p99": 1000 * percentile(times, 0.99),
            "n": len(times),
        }
    if request.memory:
        log.info("peak memory: %s", setting)
        release_freed_memory(above=KEPT_AT_MOST)
        try:
            found["peak_memory_mb"] = round(peak_memory_mb(how, task, setting), 1)
        except IsopatchError as error:
            if row["ours"]:
                raise
            log.warning("%s", error)
    return found

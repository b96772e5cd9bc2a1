"""Peak memory of a contender, measured in a process of its own: `python -m isopatch.bench.memory`.

On the CPU: the most memory resident while it runs, its weights included, above what the process held when
its libraries were loaded; what building it took (compiling, exporting) is left out where the system lets the
high-water mark be reset (Linux). On a GPU: the most that PyTorch had allocated while it ran.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isopatch.bench.setting import Setting, Task
from isopatch.errors import IsopatchError

CALLS = 2
_STATUS = Path("/proc/self/status")


def peak_memory_mb(subject: Mapping[str, Any], task: Task, setting: Setting) -> float:
    """Return a contender's peak memory in MB (10^6 bytes).

    subject: keyword arguments of `open_subject`. Raises IsopatchError where the process fails.
    """
    order = json.dumps({"subject": dict(subject), "task": vars(task), "setting": setting.to_json()})
    # Blocks of more than 128 KiB go back to the system when they are freed, so that they are not counted
    # twice; without this glibc raises the limit by itself.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    done = subprocess.run(
        [sys.executable, "-m", "isopatch.bench.memory"],
        input=order,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise IsopatchError(f"peak memory of {setting}: {last}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_memory_mb"])


def _measure(order: Mapping[str, Any]) -> float:
    setting, task = Setting(**order["setting"]), Task(**order["task"])
    import torch

    from isopatch.bench.build import build_runner
    from isopatch.bench.subject import open_subject

    _import_libraries(setting)
    before = _resident()
    subject = open_subject(**order["subject"])
    runner = build_runner(setting, task, subject)
    del subject
    runner.call()
    gc.collect()
    if task.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    reset = _reset_peak()
    for _ in range(CALLS):
        runner.call()
    if task.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return ((_status("VmHWM") if reset else _most_ever()) - before) / 1e6


def _import_libraries(setting: Setting) -> None:
    """What a contender needs beside PyTorch; runtimes take their graph from timm's module."""
    if setting.ours:
        return
    from isopatch.models.formats.timm_build import import_timm

    import_timm()
    if setting.contender.startswith("openvino-"):
        import openvino  # noqa: F401
    elif setting.contender == "onnxruntime":
        import onnxruntime  # noqa: F401


def _reset_peak() -> bool:
    """Forget the high-water mark; whether that was possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident() -> int:
    return _status("VmRSS") if _STATUS.is_file() else _most_ever()


def _status(key: str) -> int:
    """Bytes of one line of /proc/self/status."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _most_ever() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps({"peak_memory_mb": _measure(json.load(sys.stdin))}))

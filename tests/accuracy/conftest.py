"""The scripts of benchmarks/accuracy, in short; the long versions: benchmarks/README.md."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.accuracy import training
from benchmarks.common import Done

from isopatch import cli

Script = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Runs a script, and the trainings it starts, in this process: to start Python takes longer than they do.

    Returns the exit code and the result file; the runs are in tmp_path / "runs".
    """

    def completed(command: list[str], *, cwd: Path, threads: int, timeout: float) -> Done:
        started = time.monotonic()
        errors = io.StringIO()
        with contextlib.chdir(cwd), contextlib.redirect_stderr(errors):
            code = cli.main(command[3:])
        assert code == 0, errors.getvalue()
        return Done(code, "", errors.getvalue(), time.monotonic() - started)

    def run(name: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "result.json"
        where = ["--folder", str(tmp_path / "runs"), "--out", str(out), "--data", "digits"]
        monkeypatch.setattr(sys, "argv", [f"benchmarks.accuracy.{name}", *arguments, *where])
        code = importlib.import_module(f"benchmarks.accuracy.{name}").main()
        return code, json.loads(out.read_text())

    monkeypatch.setattr(training, "_completed", completed)
    return run

"""The harnesses as commands: minutes each."""

import subprocess
import sys

import pytest
from benchmarks.common import ROOT, environment

COMMANDS = {
    "resume_kills": ["--quick", "--fresh"],
    "signals": [],
    "nonfinite": [],
    "damage": ["--n", "40"],
    "class_folders": [],
    "hostile": [],
    "import_cost": ["--n", "3"],
}


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_harness(name, tmp_path):
    work = ["--work", str(tmp_path / "work")] if name == "resume_kills" else []
    command = [sys.executable, "-m", f"benchmarks.reliability.{name}", "--out", str(tmp_path / "result.json")]
    done = subprocess.run(
        [*command, *COMMANDS[name], *work],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "result.json").is_file()

"""What every harness shares: running the command line, hashing what it wrote, recording the result."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # what is measured is this checkout, installed or not


# --- command line of a harness --------------------------------------------------------------------------


def parser(description: str | None, *, n: int | None = None) -> argparse.ArgumentParser:
    """The options every harness has; `n` is the default number of trials, None where it is fixed."""
    options = argparse.ArgumentParser(description=(description or "").splitlines()[0], allow_abbrev=False)
    if n is not None:
        options.add_argument("--n", type=int, default=n, help=f"trials (default {n})")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=None, help="result file (default results/<name>.json)")
    return options


def data_root() -> Path:
    """The folder of the shared data sets, from ISOPATCH_DATA."""
    value = os.environ.get("ISOPATCH_DATA", "")
    if not value or not Path(value).is_dir():
        sys.exit("ISOPATCH_DATA must name the folder that holds cifar10/, trashnet/ and odd-images/")
    return Path(value)


# --- results --------------------------------------------------------------------------------------------


def record(
    name: str,
    *,
    claim: str,
    measured: str,
    figure: Any,
    passed: bool,
    n: int,
    seed: int | None,
    started: float,
    out: Path | None = None,
    **details: Any,
) -> int:
    """Write the result, print it in short, and return the exit code: 1 where the floor was missed.

    claim: what was to be shown, with its floor. measured: the figure in words, for a table.
    started: time.monotonic() at the harness's start.
    """
    document = {
        "name": name,
        "claim": claim,
        "measured": measured,
        "passed": passed,
        "figure": figure,
        "n": n,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "command": command_line(),
        **surroundings(),
        **details,
    }
    path = out or ROOT / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(scrub(document), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{'passed' if passed else 'FAILED'}: {name}: {measured} -> {scrub(str(path))}")
    return 0 if passed else 1


def surroundings() -> dict[str, Any]:
    """Where and with what something was measured."""
    versions = {package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "pillow")}
    commit = _git("rev-parse", "HEAD")
    return {
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": versions,
        "platform": f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}",
        "commit": commit,
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "src", "benchmarks"))
        if commit
        else None,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum and, from two values on, the sample standard deviation."""
    result = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    if len(values) > 1:
        result["std"] = statistics.stdev(values)
    return {key: round(value, 6) for key, value in result.items()}


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def hardware() -> str:
    """CPU name, cores this process may use, memory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{names[0] if names else platform.machine()}, {cores} cores, {memory:.0f} GiB"


def command_line() -> str:
    """How this process was started, as somebody would type it in the repository's root."""
    module = os.path.relpath(sys.argv[0], ROOT).removesuffix(".py").replace(os.sep, ".")
    return " ".join(["python -m", module, *sys.argv[1:]])


def scrub(value: Any) -> Any:
    """Replace this machine's folders by names anybody has, recursively."""
    if isinstance(value, str):
        for folder, word in _folders():
            value = value.replace(folder, word)
        return value
    if isinstance(value, dict):
        return {str(key): scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    return value


def _folders() -> list[tuple[str, str]]:
    pairs = [
        (f"{ROOT}/", ""),
        (f"{tempfile.gettempdir()}/", "TMP/"),
        (sys.prefix, "ENV"),
        (str(Path.home()), "~"),
    ]
    if os.environ.get("ISOPATCH_DATA"):
        data = os.environ["ISOPATCH_DATA"].rstrip("/")
        beside = (f"{Path(data).parent}/", "$ISOPATCH_DATA/../")  # where teachers' weights lie
        pairs = [(data, "$ISOPATCH_DATA"), beside, *pairs]
    return [(folder, word) for folder, word in pairs if len(folder) > 3]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


# --- processes ------------------------------------------------------------------------------------------


def environment(threads: int = 1) -> dict[str, str]:
    """Environment of a child: this checkout's sources first, `threads` threads, no colours."""
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    own = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "NO_COLOR": "1",
    }
    return {**os.environ, **own}


@dataclass(frozen=True)
class Done:
    """A process that ended. `code` is negative where a signal ended it."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.stderr + self.stdout


class Child:
    """A process in a group of its own, its output in files: what a terminal or a scheduler would signal."""

    def __init__(self, command: Sequence[str], *, cwd: Path, threads: int = 1) -> None:
        self._output, self._errors = (_open_until_wait() for _ in range(2))
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )
        self.pid = self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal_group(self, number: int) -> None:
        """Signal every process of the group, as a terminal's Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def members(self) -> list[int]:
        """Processes of the group that still exist, zombies left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    state, _, group = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
                    if int(group) == self.pid and state not in "ZX":
                        found.append(int(entry.name))
        return found

    def wait(self, timeout: float | None = None) -> Done:
        """Wait for the process to end; after `timeout` seconds the whole group is killed and code is -9."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            code = self.process.wait()
        seconds = time.monotonic() - self._started
        texts = []
        for file in (self._output, self._errors):
            file.seek(0)
            texts.append(file.read())
            file.close()
        return Done(code, texts[0], texts[1], seconds)


def _open_until_wait() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def isopatch(*arguments: str) -> list[str]:
    """The command line of `isopatch ...`."""
    return [sys.executable, "-m", "isopatch", *arguments]


def run(*arguments: str, cwd: Path, timeout: float = 600, threads: int = 1) -> Done:
    """Run `isopatch ...` to its end."""
    return Child(isopatch(*arguments), cwd=cwd, threads=threads).wait(timeout)


@contextlib.contextmanager
def workspace(name: str, keep: Path | None = None) -> Iterator[Path]:
    """A folder to work in: `keep`, which stays, or a temporary one."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix=f"isopatch-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- what a run left ------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensor_hash(path: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of a .safetensors file's tensors, sorted by name.

    Reads the format itself (8 bytes of length, a JSON header, the data), so that it depends on nothing else.
    """
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    digest = hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        low, high = entry["data_offsets"]
        digest.update(f"{name} {entry['dtype']} {entry['shape']}\n".encode())
        digest.update(raw[start + low : start + high])
    return digest.hexdigest()


def step_folders(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(p for p in folders if p.name.removeprefix("step-").isdigit())


def fingerprint(run: Path) -> dict[str, Any]:
    """Everything two identical runs must agree on: weights, optimiser, average, step, the metrics' values."""
    newest = step_folders(run)[-1]
    hashes = {f"{file.stem}": tensor_hash(file) for file in sorted(newest.glob("*.safetensors"))}
    return {
        "best": sha256(run / "best" / "model.safetensors"),
        **hashes,
        "step": int(newest.name.removeprefix("step-")),
        "metrics": hashlib.sha256(json.dumps(metrics_values(run)).encode()).hexdigest(),
    }


def metrics_values(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what the clock decides."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


# --- pictures -------------------------------------------------------------------------------------------


def make_pictures(
    folder: Path, *, classes: Sequence[str], per_class: int, side: int = 48, seed: int = 0
) -> None:
    """Write `folder/<class>/<n>.jpg`: noise on a base colour of the class, so that it can be learnt."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        colour = np.random.default_rng([7, number]).integers(40, 216, size=3)
        for index in range(per_class):
            pixels = np.clip(colour + generator.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.jpg", quality=90)

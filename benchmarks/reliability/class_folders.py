"""Break the class folders of one split and see whether a label shifts.

Claim: a class folder that is empty, absent, extra, renamed, in another case, in another Unicode form or
hidden, in train, val or test, never shifts a label: it is refused by name, or classes are matched by name.
Contrast: numbering each split by its own folders, as torchvision's ImageFolder does.
Hardware: CPU. Time: about 20 s.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import make_pictures, parser, record, workspace

CLASSES = ("alder", "beech", "cedar", "\u00e9b\u00e8ne")  # the last one composed (NFC)
PER_CLASS = {"train": 8, "val": 4, "test": 4}
VICTIM, STRANGER = "beech", "ash"  # the stranger sorts first, so that positions would shift

ACCEPTED, REFUSED = "accepted", "refused"


def _empty(split: Path) -> None:
    for file in (split / VICTIM).iterdir():
        file.unlink()


def _extra(split: Path) -> None:
    shutil.copytree(split / VICTIM, split / STRANGER)


def _hidden(split: Path) -> None:
    shutil.copytree(split / VICTIM, split / ".ipynb_checkpoints")


def _decomposed(split: Path) -> None:
    (split / CLASSES[3]).rename(split / unicodedata.normalize("NFD", CLASSES[3]))


# case: (what is done to the split, verdict when done to train, verdict when done to val or test)
CASES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "nothing (control)": (lambda split: None, ACCEPTED, ACCEPTED),
    "empty": (_empty, REFUSED, ACCEPTED),
    "absent": (lambda split: shutil.rmtree(split / VICTIM), REFUSED, ACCEPTED),
    "extra": (_extra, ACCEPTED, REFUSED),
    "extra and empty": (lambda split: (split / STRANGER).mkdir(), REFUSED, ACCEPTED),
    "renamed": (lambda split: (split / VICTIM).rename(split / "birch"), REFUSED, REFUSED),
    "other case": (lambda split: (split / VICTIM).rename(split / "Beech"), REFUSED, REFUSED),
    "other Unicode form": (_decomposed, ACCEPTED, ACCEPTED),
    "hidden folder": (_hidden, ACCEPTED, ACCEPTED),
}


def make_tree(folder: Path) -> None:
    for seed, (split, count) in enumerate(PER_CLASS.items()):
        make_pictures(folder / split, classes=CLASSES, per_class=count, side=16, seed=seed)


def folder_name(path: str) -> str:
    """The class a picture is in, by the folder on its path."""
    return unicodedata.normalize("NFC", Path(path).parent.name)


def opened(data: Path) -> tuple[str, int, str]:
    """(verdict, pictures whose label is not their folder's, message or notes)."""
    from isopatch.data.open import open_data
    from isopatch.errors import UsageError

    try:
        splits = open_data(data)
    except UsageError as error:
        return REFUSED, 0, str(error)
    shifted = 0
    for source in (splits.train, splits.val, splits.test):
        assert source is not None
        if tuple(source.classes) != splits.classes:
            return ACCEPTED, len(source), "a split has a class map of its own"
        names = [splits.classes[label] for label in source.labels]
        shifted += sum(name != folder_name(source.name(i)) for i, name in enumerate(names))
    return ACCEPTED, shifted, "; ".join(splits.notes)


def by_position(data: Path) -> int:
    """Pictures that get another class' number where each split is numbered by its own folders."""
    numbers = {split: sorted(p.name for p in (data / split).iterdir() if p.is_dir()) for split in PER_CLASS}
    shifted = 0
    for split in ("val", "test"):
        for meant, name in zip(numbers["train"], numbers[split], strict=False):
            if unicodedata.normalize("NFC", meant) != unicodedata.normalize("NFC", name):
                shifted += sum(1 for _ in (data / split / name).iterdir())
    return shifted


def evaluated(run: Path, data: Path, split: str) -> list[str]:
    """Evaluate a model on the split by command: each class' support is its folder's number of pictures."""
    from isopatch.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["eval", str(run), "--data", str(data), "--split", split, "--json"])
    if code != 0:
        return [f"eval: exit code {code}: {err.getvalue()[-200:]}"]
    per_class = json.loads(out.getvalue())["per_class"]
    supports = {row["name"]: row["support"] for row in per_class}
    folders = [p for p in (data / split).iterdir() if p.is_dir() and not p.name.startswith(".")]
    real = Counter({unicodedata.normalize("NFC", p.name): sum(1 for _ in p.iterdir()) for p in folders})
    wrong = [name for name in CLASSES if supports.get(name, 0) != real[name]]
    return [f"eval: wrong number of pictures of {wrong}"] if wrong else []


def train_on(data: Path, run: Path) -> None:
    from isopatch.cli import main

    words = [
        "--model",
        "convmixer",
        "--model.image_size",
        "16",
        "--model.patch_size",
        "4",
        "--model.dim",
        "16",
    ]
    words += ["--model.depth", "1", "--model.kernel_size", "3", "--recipe", "small", "--batch_size", "8"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main(
            ["train", "--data", str(data), "--out", str(run), "--epochs", "4", "--threads", "1", *words]
        )
    assert code == 0, f"the model to evaluate was not trained: exit code {code}"


def check(work: Path, case: str, split: str, run: Path | None) -> dict[str, Any]:
    """One case in one split: the verdict, the shifted labels and what is wrong."""
    change, for_train, for_others = CASES[case]
    data = work / "data"
    shutil.rmtree(data, ignore_errors=True)
    make_tree(data)
    change(data / split)
    verdict, shifted, message = opened(data)
    problems = []
    expected = for_train if split == "train" else for_others
    if verdict != expected:
        problems.append(f"{verdict}, expected {expected}")
    if shifted:
        problems.append(f"{shifted} labels shifted")
    names = (VICTIM, STRANGER, "birch", "Beech")
    if verdict == REFUSED and (not any(name in message for name in names) or "\n" in message):
        problems.append(f"message does not name the class in one line: {message}")
    if verdict == ACCEPTED and run is not None and split != "train":
        problems += evaluated(run, data, split)
    return {
        "case": case,
        "split": split,
        "verdict": verdict,
        "shifted": shifted,
        "shifted_by_position": by_position(data),
        "message": message.replace(f"{work}{os.sep}", ""),
        "problems": problems,
    }


def main() -> int:
    given = parser(__doc__).parse_args()
    started = time.monotonic()
    with workspace("classes") as work:
        make_tree(work / "whole")
        train_on(work / "whole", work / "run")
        results = [check(work, case, split, work / "run") for case in CASES for split in PER_CLASS]
    for result in results:
        print(f"{result['case']:20} {result['split']:6} {result['verdict']:9} {result['message'][:120]}")
    good = sum(not result["problems"] for result in results)
    return record(
        "class_folders",
        claim="Class folders empty, absent, extra, renamed, in other case, hidden: no label shifted",
        measured=f"{good} of {len(results)} right, {sum(case['shifted'] for case in results)} labels shifted",
        figure={
            "right": good,
            "of": len(results),
            "labels_shifted": sum(result["shifted"] for result in results),
            "labels_shifted_by_position": sum(result["shifted_by_position"] for result in results),
        },
        passed=good == len(results),
        n=len(results),
        seed=given.seed,
        started=started,
        out=given.out,
        cases=results,
    )


if __name__ == "__main__":
    raise SystemExit(main())

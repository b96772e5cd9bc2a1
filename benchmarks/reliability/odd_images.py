"""Read the 716 odd pictures with `isopatch data check`.

Claim: no crash, no hang; each of the files is counted as read, or refused with its reason; the EXIF sets give
one upright picture each; 16-bit pictures keep their grey levels (scaled by the declared range, not clipped).
Contrast: the same pictures with Pillow alone.
Hardware: CPU. Time: about 1 minute. Needs ISOPATCH_DATA.
"""

from __future__ import annotations

import csv
import json
import resource
import time
from pathlib import Path
from typing import Any

from benchmarks.common import data_root, parser, record, run, workspace

TIMEOUT = 300
SAME = 8.0  # mean absolute difference in grey levels between two JPEG encodings of one picture; others: > 30
WHITES = (65535, 4095, 32767)  # 16 bit, 12 bit, signed 16 bit
DEEP_MODES = ("I;16", "I;16B", "I")


def checked(root: Path) -> tuple[dict[str, Any], list[str], dict[str, float]]:
    """Run the command; return its JSON, problems, and what it cost."""
    with workspace("odd-images") as work:
        done = run("data", "check", str(root), "--json", cwd=work, timeout=TIMEOUT)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {"seconds": round(done.seconds, 1), "peak_memory_mb": round(usage.ru_maxrss / 1024)}
    if done.code != 0 or done.traceback:
        return {}, [f"exit code {done.code} (-9: hung for {TIMEOUT} s): {done.stderr[-300:]}"], cost
    return json.loads(done.stdout), [], cost


def counted(report: dict[str, Any], rows: list[dict[str, str]], root: Path) -> list[str]:
    """Problems of the counts: every file of the list once, every refused one with a reason."""
    problems = []
    if report["readable"] + report["unreadable"] != len(rows):
        problems.append(f"{report['readable']} + {report['unreadable']} of {len(rows)} files counted")
    refused = {
        str(Path(entry["file"]).resolve().relative_to(root.resolve())) for entry in report["unreadable_files"]
    }
    if len(refused) != report["unreadable"]:
        problems.append(f"{len(refused)} of {report['unreadable']} unreadable files are named")
    unknown = refused - {row["path"] for row in rows}
    problems += [f"not in the list: {name}" for name in sorted(unknown)[:3]]
    problems += [f"no reason: {e['file']}" for e in report["unreadable_files"] if not e["reason"].strip()]
    return problems


def upright(root: Path) -> tuple[dict[str, Any], list[str]]:
    """Decode the two sets of nine orientations; return the largest difference with and without our rules."""
    import numpy as np
    from PIL import Image

    from isopatch.image.decode import decode

    figures: dict[str, Any] = {}
    problems = []
    for kind in ("Landscape", "Portrait"):
        files = sorted((root / "exif-orientation").glob(f"{kind}_*.jpg"))
        ours = [np.asarray(decode(f, name=f.name), dtype=np.float32) for f in files]
        plain = [np.asarray(Image.open(f).convert("RGB"), dtype=np.float32) for f in files]
        figures[kind] = {
            "files": len(files),
            "largest_mean_difference": _largest_difference(ours),
            "with_pillow_alone": _largest_difference(plain),
        }
        if len(files) != 9 or (figures[kind]["largest_mean_difference"] or 255) > SAME:
            problems.append(f"{kind}: {figures[kind]}")
    return figures, problems


def _largest_difference(pictures: list[Any]) -> float | None:
    """Largest mean absolute difference to the first picture; None where the sizes differ."""
    if len({picture.shape for picture in pictures}) != 1:
        return None
    return round(max(float(abs(picture - pictures[0]).mean()) for picture in pictures[1:]), 2)


def grey_levels(
    root: Path, rows: list[dict[str, str]], remarked: set[str], work: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare each 16-bit picture's levels with what we make of them.

    remarked: files that the command says come out nearly uniform, because they use little of their range.
    """
    import numpy as np
    from PIL import Image

    from isopatch.image.decode import DecodeError, decode

    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(work / "ramp.png")
    files = [work / "ramp.png"] + [root / row["path"] for row in rows if row["mode"] in DEEP_MODES]
    table, problems = [], []
    for file in files:
        picture = Image.open(file)
        stored = np.asarray(picture).astype(np.int64)
        try:
            grey = np.asarray(decode(file, name=file.name))[..., 0].astype(np.int64)
        except DecodeError as error:
            table.append({"file": file.name, "refused": error.reason})
            continue
        if (transparent := picture.info.get("transparency")) is not None:
            keep = stored != transparent
            stored, grey = stored[keep], grey[keep]
        scaled = [
            white for white in WHITES for g in (grey, 255 - grey) if abs(g - 255 * stored / white).max() <= 1
        ]
        row = {
            "file": file.name,
            "stored_levels": len(np.unique(stored)),
            "our_levels": len(np.unique(grey)),
            "white_when_clipped": round(float((stored >= 255).mean()), 3),
            "range": scaled[0] if scaled else None,
            "remarked": file.name in remarked,
        }
        table.append(row)
        if not scaled:
            problems.append(f"{file.name}: not scaled by its range: {row}")
        if (stored.max() - stored.min()) * 16 < (scaled or WHITES)[0] and row["stored_levels"] > 1:
            problems += [] if row["remarked"] else [f"{file.name}: nearly uniform without a remark"]
    if table[0]["our_levels"] != 256:
        problems.append(f"the ramp has {table[0]['our_levels']} levels")
    return table, problems


def main() -> int:
    given = parser(__doc__).parse_args()
    root = data_root() / "odd-images"
    started = time.monotonic()
    with (root / "MANIFEST.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    report, problems, cost = checked(root)
    if report:
        problems += counted(report, rows, root)
    sets, wrong = upright(root)
    problems += wrong
    remarked = {Path(entry["file"]).name for entry in report.get("remarks", [])}
    with workspace("ramp") as work:
        deep, wrong = grey_levels(root, rows, remarked, work)
    problems += wrong
    return record(
        "odd_images",
        claim="716 odd files: each read or refused with its reason; EXIF applied; 16-bit levels kept",
        measured=f"{report['readable']} read, {report['unreadable']} refused, {len(problems)} problems",
        figure={
            "files": len(rows),
            "readable": report.get("readable"),
            "unreadable": report.get("unreadable"),
            "problems": len(problems),
            "ramp_levels": deep[0].get("our_levels"),
            "ramp_white_when_clipped": deep[0].get("white_when_clipped"),
        },
        passed=not problems,
        n=len(rows),
        seed=None,
        started=started,
        out=given.out,
        problems=problems,
        cost=cost,
        exif=sets,
        deep_pictures=deep,
        refused=[
            {"file": str(Path(e["file"]).resolve().relative_to(root.resolve())), "reason": e["reason"]}
            for e in report.get("unreadable_files", [])
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())

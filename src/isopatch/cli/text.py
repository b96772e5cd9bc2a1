"""What the verbs print for people: results as a few lines of text. `--json` prints the same as JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.report.wording import VOTERS, rate

if TYPE_CHECKING:
    from isopatch.predict import Prediction

CLASS_LINES = 40  # of the per-class table; --json has all


def trained(document: Mapping[str, Any]) -> str:
    """Say how a training ended, where it is, and what to do next."""
    path = document["path"]
    if document["state"] != "finished":
        steps = f"{document['step']} of {document['total_steps']}"
        return f"{path}: saved at step {steps}; isopatch train --resume {path} continues it"
    lines = [f"{path}: finished"]
    summary = document["summary"]
    for split, numbers in summary.get("final", {}).items():
        what = "moving average, test" if split == "test_ema" else split
        five = f", top-5 {percent(numbers['top5'])}" if len(summary["data"]["classes"]) > 5 else ""
        lines.append(f"{what:<5} top-1 {percent(numbers['top1'])}{five}")
    if summary.get("selection"):
        lines.append(summary["selection"])
    lines.append(f"report: {path}/report.html")
    lines.append(f"next: isopatch predict {path} PICTURES")
    return "\n".join(lines)


def plan(document: Mapping[str, Any]) -> str:
    """Say what a training would cost."""
    minutes = document["minutes_to_finish"]
    duration = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    rows = {
        "model": document["model"],
        "size": f"{document['parameters']:,} parameters, {document['macs'] / 1e9:.3f} GMACs per picture",
        "recipe": str(document["recipe"]),
        "data": f"{document['data']}, {document['train_images']:,} training pictures",
        "machine": f"{document['device']}, {document['precision']}, {document['kernels']} kernels, "
        f"{document['threads']} threads",
        "length": f"{document['epochs']:,} epochs, {document['steps']:,} steps of {document['batch_size']:,}",
        "memory": f"about {document['memory_estimate_bytes'] / 1e6:,.0f} MB, the pictures not included",
        "speed": f"{document['images_per_second']:,.0f} images/s over {document['measured_steps']} steps",
        "time": f"about {duration}, evaluation not included",
    }
    return "\n".join([table(rows), *(f"note: {note}" for note in document["notes"])])


def computed(document: Mapping[str, Any]) -> str:
    """What a result was computed in and on: `in bf16, native kernels (amx), 2 threads`."""
    instructions = f" ({document['instruction_set']})" if document.get("instruction_set") else ""
    threads = f"{document['threads']} thread{'s' * (document['threads'] != 1)}"
    return f"in {document['precision']}, {document['kernels']} kernels{instructions}, {threads}"


def evaluation(document: Mapping[str, Any]) -> str:
    """Show a model's figures, per class, and what its heads learned."""
    rows = {
        "top-1": f"{percent(document['top1'])} ({document['num_correct']:,} of {document['num_images']:,})",
        "top-5": percent(document["top5"]),
        "macro recall": percent(document["macro_recall"]),
        "nll": f"{document['nll']:.4f}",
        "ece": f"{document['ece']:.4f}",
        "brier": f"{document['brier']:.4f}",
        "computed": computed(document),
    }
    if len(document["per_class"]) <= 5:  # always right then
        del rows["top-5"]
    lines = [table(rows), ""]
    if "distillation" in document:
        lines += [learned(document["distillation"], document["num_images"]), ""]
    classes = document["per_class"]
    width = max(len("class"), *(len(str(row["name"])) for row in classes[:CLASS_LINES]))
    lines.append(f"{'class':<{width}}  precision  recall      f1  pictures")
    for row in classes[:CLASS_LINES]:
        numbers = f"{share(row['precision']):>9}  {share(row['recall']):>6}  {share(row['f1']):>6}"
        lines.append(f"{row['name']!s:<{width}}  {numbers}  {row['support']:>8,}")
    if len(classes) > CLASS_LINES:
        lines.append(f"and {len(classes) - CLASS_LINES:,} more classes; --json has all")
    return "\n".join(lines)


def sizes(document: Mapping[str, Any]) -> str:
    """Show a model at several picture sizes: cost, accuracy, speed, and what was resized for it."""
    heads = ("size", "grid", "tokens", "GMACs", "top-1", "nll", "images/s (quartiles)", "resized")
    rows: list[tuple[str, ...]] = [heads]
    for row in document["sizes"]:
        size = _by(row["image_size"]) + ("*" if row["trained"] else "")
        if row["refused"] is not None:
            rows.append((size, *["-"] * 6, "cannot be taken, see below"))
            continue
        speeds = row["images_per_second"]
        changes = [f"{c['what']} {_by(c['from'])} to {_by(c['to'])} ({c['how']})" for c in row["resized"]]
        low, high = speeds["quartiles"]
        speed = f"{rate(speeds['median'])} ({rate(low)}-{rate(high)})"
        rows.append(
            (
                size,
                _by(row["grid"]),
                f"{row['tokens']:,}",
                f"{row['macs'] / 1e9:.3g}",
                percent(row["top1"]),
                f"{row['nll']:.4f}",
                speed,
                "; ".join(changes) or "nothing",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        f"{document['model']} on {document['split']}, {document['num_images']:,} pictures; "
        f"{document['device']}, {document['precision']}, {document['kernels']} kernels, "
        f"threads: {document['threads']}",
        *(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ),
        f"*: the size it was trained at, {_by(document['trained_size'])}; images/s of the model alone",
    ]
    lines += [
        f"{_by(row['image_size'])}: {row['refused']}"
        for row in document["sizes"]
        if row["refused"] is not None
    ]
    return "\n".join([*lines, f"plot: {document['plot']}"])


def _by(sides: Sequence[int]) -> str:
    return "x".join(str(side) for side in sides)


def learned(document: Mapping[str, Any], num_images: int) -> str:
    """Show what a student's heads learned, and how it compares with its teacher and its baseline."""
    voters = dict(document.get("heads") or {})
    voters |= {who: document[who] for who in ("teacher", "baseline") if who in document}
    figures = [
        (VOTERS[name], percent(row["top1"]), percent(row["top5"]), f"{row['nll']:.4f}")
        for name, row in voters.items()
    ]
    parts = [columns([("", "top-1", "top-5", "nll"), *figures])]
    for who in ("teacher", "baseline"):
        if who in document:
            parts.append(compared(document[who]["compared"], who, num_images))
    found = document["disagreement"]
    names = [VOTERS[voter] for voter in found["voters"]]
    rows = [(name, *(f"{rate:.3f}" for rate in row)) for name, row in zip(names, found["rates"], strict=True)]
    parts.append("share of pictures decided differently:\n" + columns([("", *names), *rows]))
    if "token_cosine" in document:
        cosine = document["token_cosine"]
        depths = [
            (f"after block {depth}" if depth else "with positions")
            for depth in range(len(cosine["by_depth"]))
        ]
        tokens = {"learned": cosine["learned"], **dict(zip(depths, cosine["by_depth"], strict=True))}
        tokens["after the norm"] = cosine["after_norm"]
        shown = table({name: f"{value:6.3f}" for name, value in tokens.items()}, indent="  ")
        parts.append("cosine of class token and distillation token:\n" + shown)
    gains = (document.get("baseline") or {}).get("gains") or []
    if gains:
        rows = [
            (str(row["name"]), share(row["baseline"]), share(row["recall"]), points(row["gain"]))
            for row in sorted(gains, key=lambda row: -row["gain"])[:CLASS_LINES]
        ]
        more = [f"and {len(gains) - CLASS_LINES:,} more classes; --json has all"] * (len(gains) > CLASS_LINES)
        head = ("recall of class", "baseline", "student", "points")
        parts.append("\n".join([columns([head, *rows]), *more]))
    return "\n\n".join(parts)


def compared(pairs: Mapping[str, Any], who: str, num_images: int) -> str:
    """Say whether the student is better than its teacher or baseline, and how sure that is."""
    ours, theirs = pairs["only_student"], pairs["only_other"]
    gap = f"{100 * abs(pairs['difference']):.2f} points"
    verdict = f"the student is {gap} better than the {who}"
    if ours == theirs:
        verdict = f"the student is as good as the {who}"
    elif ours < theirs:
        verdict = f"the student is {gap} worse than the {who}"
    return (
        f"{verdict}; McNemar's exact test: p = {pairs['p_value']:.2g}\n"
        f"of {num_images:,} pictures {pairs['both_right']:,} are right for both, {ours:,} for the student "
        f"alone, {theirs:,} for the {who} alone"
    )


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def prediction(row: Prediction, *, as_json: bool) -> str:
    """Return one picture's line: path, then the classes with their probabilities."""
    from isopatch.predict_rows import escape

    path = escape(row.path)
    if as_json:
        shares = [round(value, 6) for value in row.probabilities]
        error = None if row.error is None else escape(row.error)
        document = {"path": path, "labels": list(row.labels), "probabilities": shares, "error": error}
        return json.dumps(document, ensure_ascii=False)
    if row.error is not None:
        return f"{path}\tnot readable: {escape(row.error)}"
    pairs = zip(row.labels, row.probabilities, strict=True)
    return "\t".join([path, *(f"{escape(label)} {value:.4f}" for label, value in pairs)])


def predicted(document: Mapping[str, Any]) -> str:
    """Say what went into a file of predictions."""
    return (
        f"{document['out']}: {document['rows']:,} rows; {document['done']:,} new, {document['skipped']:,} "
        f"there already, {document['unreadable']:,} not readable"
    )


def packed(document: Mapping[str, Any]) -> str:
    """Say what is in a new pack."""
    splits = ", ".join(f"{role} {count:,}" for role, count in document["splits"].items())
    how = document["store"] if document["quality"] is None else f"jpeg at quality {document['quality']}"
    kept = document["as_they_were"]
    lines = [
        f"{document['out']}: {splits} pictures, shorter side at most {document['short_side']}, {how}, "
        f"{document['bytes'] / 1e6:,.1f} MB in {document['seconds']:g} s"
        + (f"; {kept:,} JPEG files as they were" if kept else "")
    ]
    for role, files in document["skipped"].items():
        lines.append(f"{role}: {len(files):,} pictures cannot be read and were left out:")
        lines += [f"    {name}: {reason}" for name, reason in files[:CLASS_LINES]]
    return "\n".join(lines)


def exported(document: Mapping[str, Any]) -> str:
    """Return the source itself, or where it is."""
    if document["out"] is None:
        return str(document["source"]).rstrip("\n")
    return f"{document['out']}: {document['model']}, {document['lines']} lines"


def converted(document: Mapping[str, Any]) -> str:
    """Say what was written, what became of each tensor, and how far the logits are apart."""
    read, written, trip = (document[key] for key in ("read", "written", "round_trip"))
    rows = {
        "model": f"{document['model']}, {document['parameters']:,} parameters",
        "read": f"{read['matched']} of {read['tensors_in_model']} tensors matched, "
        f"{len(read['reshaped'])} of them reshaped, {_named(read['left_over'], 'left over')}, "
        f"{_named(read['missing'], 'missing')}",
        "written": f"{written['tensors']} tensors, {len(written['reshaped'])} reshaped",
        "read back": f"{trip['tensors']} tensors, largest difference {trip['max_abs_error']:g}",
    }
    done = ", ".join(document["files"]) if document["passed"] else "NOT written"
    lines = [f"{document['target']}: {document['format']} ({done})", table(rows)]
    lines += [f"not kept: {line}" for line in document["not_kept"]]
    lines += [f"note: {line}" for line in document["other_settings"]]
    if document["check"] is not None:
        lines += ["", _checked(document["check"])]
    return "\n".join(lines)


def _checked(check: Mapping[str, Any]) -> str:
    """Show a comparison of logits, and the settings that differ."""
    verdict = "passed" if check["passed"] else "FAILED"
    rows = {
        "ours": check["ours"],
        "theirs": check["theirs"],
        "pictures": f"{check['pictures']}, prepared {check['prepared']}, {check['precision']}",
        "logits": f"largest difference {check['max_error']:.1e}, mean {check['mean_error']:.1e}",
        "relative": f"{check['relative_error']:.1e} of the largest logit ({verdict}: at most "
        f"{check['tolerance']:g})",
        "same top-1": percent(check["top1_agreement"]),
    }
    if check["own_input"] is not None:
        own = check["own_input"]
        rows["own input"] = (
            f"each side prepares pictures its way: relative {own['relative_error']:.1e}, same top-1 "
            f"{percent(own['top1_agreement'])}"
        )
    if check["accuracy"] is not None:
        accuracy = check["accuracy"]
        rows["accuracy"] = f"ours {percent(accuracy['ours'])}, theirs {percent(accuracy['theirs'])}"
    settings = {}
    for row in check["settings"]:
        mine, other = (
            words(row[side]) if row[side] is not None else "not said" for side in ("ours", "theirs")
        )
        settings[row["setting"]] = f"{mine} | {other}{'   <- differs' if row['differs'] else ''}"
    return "\n".join([table(rows), "settings, ours | theirs:", table(settings, indent="  ")])


def _named(names: list[str], what: str) -> str:
    """Return a count with the first names."""
    if not names:
        return f"none {what}"
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def examined(document: Mapping[str, Any]) -> str:
    """Show what `doctor` found."""
    rows = {}
    for key, value in document.items():
        rows[key.replace("_", " ") if key.islower() else key] = words(value)
    return table(rows)


def words(value: Any) -> str:
    """Return a JSON value on one line: names and values of a dict, items of a list."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(words(item) for item in value) or "none"
    return str(value)


def demonstrated(document: Mapping[str, Any]) -> str:
    """Show the demo's accuracies, the report and what to try next."""
    rows = {name: percent(accuracy) for name, accuracy in document["accuracies"].items()}
    return "\n".join(
        [
            "accuracy on the held-out digits:",
            table(rows, indent="  "),
            f"report: {document['report']}",
            f"next: {program()} train --data FOLDER_OF_PICTURES",
        ]
    )


def program() -> str:
    """How to call the command line from here: by its name, or by its path where the name is not found."""
    beside = Path(sys.executable).parent / "isopatch"
    if shutil.which("isopatch") or not beside.is_file():
        return "isopatch"
    return os.path.relpath(beside)


def table(rows: Mapping[str, str], indent: str = "") -> str:
    """Return names and values in two columns."""
    width = max(len(name) for name in rows)
    return "\n".join(f"{indent}{name:<{width}}  {value}" for name, value in rows.items())


def percent(value: float) -> str:
    """Return a share as per cent with two digits."""
    return f"{100 * value:.2f} %"


def points(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign; none for zero."""
    return f"{100 * value:+.1f}" if value else "0.0"


def share(value: float | None) -> str:
    """Return a share with three digits; a dash where it does not exist."""
    return "-" if value is None else f"{value:.3f}"

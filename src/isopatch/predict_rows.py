r"""The rows of a prediction file: CSV, JSON Lines or Parquet, written and read back without loss.

Text in all three: a backslash is written `\\`, a control character `\x0a`, a byte of a file name that is not
UTF-8 `\udcff`, so a row is one line and valid UTF-8. In CSV a cell that a spreadsheet would run as a formula
is disarmed: a path gets `./`, other text a leading apostrophe. `read_predictions` undoes all of it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from isopatch.errors import IsopatchError
from isopatch.files import fsync_folder, temporary_beside
from isopatch.predict import Prediction

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # noqa: RUF001  (full-width)
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")
_PARQUET_CHUNK = 10_000  # rows held while converting


def escape(text: str) -> str:
    r"""Return `text` on one line and valid as UTF-8: `\\`, `\x0a`, `\udcff` for what is not; reversible."""
    return _UNSAFE.sub(_escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\\\\" if match[0] == "\\" else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def unescape(text: str) -> str:
    """Return what `escape` was given."""
    return _ESCAPED.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), text)


def columns(top_k: int) -> list[str]:
    """Return the column names of CSV and Parquet."""
    more = [name for rank in range(2, top_k + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    return ["path", "label", "probability", *more, "error"]


def to_line(prediction: Prediction, suffix: str, top_k: int) -> bytes:
    """Return one line of the file, line break included."""
    labels = [escape(label) for label in prediction.labels]
    if suffix == ".jsonl":
        row = {
            "path": escape(prediction.path),
            "labels": labels,
            "probabilities": [round(value, 6) for value in prediction.probabilities],
            "error": None if prediction.error is None else escape(prediction.error),
        }
        return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    path = escape(prediction.path)
    cells = ["./" + path if path.startswith(FORMULA_STARTS) else path]
    for rank in range(top_k):
        filled = rank < len(labels)
        cells += [_disarm(labels[rank]), f"{prediction.probabilities[rank]:.6f}"] if filled else ["", ""]
    return csv_line([*cells, _disarm(escape(prediction.error or ""))])


def csv_line(cells: list[str]) -> bytes:
    """Return the cells as one line of UTF-8, quoted where needed."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


def _disarm(text: str) -> str:
    return "'" + text if text.startswith((*FORMULA_STARTS, "'")) else text


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Yield the rows of a file that `predict_to_file` wrote, all escapes undone.

    A torn last line is left out. Raises `IsopatchError` naming the first complete line that is damaged.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    header: list[str] | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                if path.suffix == ".jsonl":
                    yield _from_json(line)
                    continue
                cells = next(csv.reader([line.decode().rstrip("\n")], strict=True))
                if header is None:
                    header = cells
                    if cells != columns((len(cells) - 2) // 2):
                        raise ValueError("unknown header")
                    continue
                if len(cells) != len(header):
                    raise ValueError("wrong number of cells")
                yield _from_cells(cells)
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise IsopatchError(
                    f"{path}: line {number} is damaged ({error}); delete that line or the file"
                ) from None


def _from_json(line: bytes) -> Prediction:
    row = json.loads(line)
    labels = tuple(unescape(label) for label in row["labels"])
    error = None if row["error"] is None else unescape(row["error"])
    return Prediction(unescape(row["path"]), labels, tuple(map(float, row["probabilities"])), error)


def _from_cells(cells: list[str]) -> Prediction:
    path, *pairs, error = cells
    if path.startswith("./") and path[2:].startswith(FORMULA_STARTS):
        path = path[2:]
    filled = [(label, value) for label, value in zip(pairs[::2], pairs[1::2], strict=True) if value]
    labels = tuple(unescape(label.removeprefix("'")) for label, _ in filled)
    probabilities = tuple(float(value) for _, value in filled)
    return Prediction(unescape(path), labels, probabilities, unescape(error.removeprefix("'")) or None)


# --- Parquet -------------------------------------------------------------------------------------------


def jsonl_to_parquet(partial: Path, out: Path, top_k: int) -> None:
    """Write all rows of `partial` as Parquet beside `out`, flush it, and rename it into place."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {name: pa.float64() if name.startswith("probability") else pa.string() for name in columns(top_k)}
    schema = pa.schema(list(types.items()))
    temporary = temporary_beside(out)
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            rows = read_predictions(partial)
            while chunk := list(islice(rows, _PARQUET_CHUNK)):
                writer.write_table(pa.Table.from_pylist([_to_record(row, top_k) for row in chunk], schema))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except OSError as error:
        raise IsopatchError(f"{out}: cannot write: {error}; {partial.name} holds all rows") from None
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(out.parent)


def _to_record(row: Prediction, top_k: int) -> dict[str, Any]:
    record: dict[str, Any] = dict.fromkeys(columns(top_k))
    record["path"] = escape(row.path)
    record["error"] = None if row.error is None else escape(row.error)
    for rank, (label, probability) in enumerate(zip(row.labels, row.probabilities, strict=True), start=1):
        suffix = "" if rank == 1 else f"_{rank}"
        record["label" + suffix], record["probability" + suffix] = escape(label), probability
    return record


def _read_parquet(path: Path) -> Iterator[Prediction]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_PARQUET_CHUNK):
            for record in batch.to_pylist():
                ranks = ["", *(f"_{rank}" for rank in range(2, len(record) // 2))]
                found = [(record["label" + rank], record["probability" + rank]) for rank in ranks]
                labels = tuple(unescape(label) for label, _ in found if label is not None)
                values = tuple(value for label, value in found if label is not None)
                error = None if record["error"] is None else unescape(record["error"])
                yield Prediction(unescape(record["path"]), labels, values, error)


def parquet_to_jsonl(source: Path, partial: Path, top_k: int) -> None:
    """Turn a finished file back into the partial one, so that more inputs can be added."""
    temporary = temporary_beside(partial)
    try:
        with temporary.open("wb") as file:
            for row in _read_parquet(source):
                file.write(to_line(row, ".jsonl", top_k))
        os.replace(temporary, partial)
    finally:
        temporary.unlink(missing_ok=True)

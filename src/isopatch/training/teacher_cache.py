"""What a teacher said, kept on disk for further runs that show it the same pictures.

Order, augmentation and mixing are functions of (data_seed, step), so a run with another `seed` replays every
view, mixing partner and weight of the run that asked the teacher. One file a pass over the data
(`view-00000.bin`) has a record for every micro-batch at its place: 8 bytes (a mark and a CRC-32 over place
and content), then the answers as `AnswerCoding` writes them. A missing or damaged record is asked again;
processes that fill one cache at the same time write the same records. `cache.json` says of what it is.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from isopatch.errors import IsopatchError, UsageError
from isopatch.image.contract import InputContract
from isopatch.training.answer_coding import AnswerCoding, choose_coding
from isopatch.training.config import RunConfig
from isopatch.training.teacher import Teacher

log = logging.getLogger("isopatch")

FORMAT = "isopatch-teacher-cache-1"
HEADER, TIMES = "cache.json", "asked.json"
_MARK = b"\x89ic1"
_PREFIX = 8  # bytes before a record's answers: mark and CRC-32


class TeacherCache:
    """A folder of answers to one teacher's views of one data set.

    Raises UsageError when it is opened for anything else than it was made for.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, Any],
        *,
        temperature: float,
        top_k: int | None,
        tolerance: float,
        records_per_view: int,
        pictures: int,
    ) -> None:
        """records_per_view: micro-batches of one pass over the data. pictures: in a micro-batch."""
        self.folder = folder
        self._fingerprint = dict(fingerprint)
        self._temperature, self._top_k, self._tolerance = temperature, top_k, tolerance
        self._per_view = records_per_view
        self._pictures = pictures
        self._damaged = 0
        self.coding = self._stored_coding()

    def read(self, place: int) -> Tensor | None:
        """Return the answers (B, K) float32 at a place (micro-batches counted from the first), or None."""
        if self.coding is None:
            return None
        size = _PREFIX + self.coding.size(self._pictures)
        file, index = self._where(place)
        try:
            with file.open("rb") as raw:
                raw.seek(index * size)
                record = raw.read(size)
        except FileNotFoundError:
            return None
        if len(record) < size or record[:4] != _MARK:
            return None
        if int.from_bytes(record[4:8], "little") != _checksum(place, record[_PREFIX:]):
            self._damaged += 1
            log.warning("%s: the answers of record %d are damaged; the teacher is asked again", file, index)
            return None
        return self.coding.decode(record[_PREFIX:], self._pictures)

    def write(self, place: int, logits: Tensor) -> Tensor:
        """Keep the answers (B, K) of a place; return them as `read` will."""
        if self.coding is None:
            self.coding = self._create(logits)
        body = self.coding.encode(logits)
        file, index = self._where(place)
        record = _MARK + _checksum(place, body).to_bytes(4, "little") + body
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, record, index * len(record))
        finally:
            os.close(descriptor)
        return self.coding.decode(body, self._pictures)

    def report(self, *, remembered: int, asked: int, seconds: float) -> dict[str, Any]:
        """Return what the cache is and saved; keep how long the teacher takes, for runs that read."""
        before = _read_json(self.folder / TIMES) or {"pictures": 0, "seconds": 0.0}
        pictures, spent = before["pictures"] + asked, before["seconds"] + seconds
        if asked:
            _write_json(self.folder / TIMES, {"pictures": pictures, "seconds": spent})
        each = spent / pictures if pictures else None
        return {
            "folder": str(self.folder),
            "coding": None if self.coding is None else self.coding.to_json(),
            "bytes_per_picture": None
            if self.coding is None
            else (_PREFIX + self.coding.size(self._pictures)) / self._pictures,
            "teacher_seconds_per_picture": each,
            "teacher_seconds_saved": None if each is None else remembered * each,
            "damaged_records": self._damaged,
        }

    def _where(self, place: int) -> tuple[Path, int]:
        view, index = divmod(place, self._per_view)
        return self.folder / f"view-{view:05d}.bin", index

    def _stored_coding(self) -> AnswerCoding | None:
        """The coding of the cache in the folder, after it was seen to be of the same teacher and views."""
        header = _read_json(self.folder / HEADER)
        if header is None:
            # A header half written, by a process that begins this cache too or was killed at it, is not one.
            begun = f".{HEADER}."
            if self.folder.is_dir() and any(
                not file.name.startswith(begun) for file in self.folder.iterdir()
            ):
                raise UsageError(
                    f"distill.cache: {self.folder} holds other files and no teacher cache (no {HEADER}); "
                    f"give a folder of its own"
                )
            return None
        if header.get("format") != FORMAT:
            raise UsageError(
                f"distill.cache: {self.folder / HEADER} is not a teacher cache of this version; give another "
                f"folder"
            )
        differing = _differences(header["fingerprint"], self._fingerprint)
        coding = AnswerCoding.from_json(header["coding"])
        if self._top_k is None:
            if coding.misplaced > self._tolerance:
                differing.append(
                    f"its answers misplace {coding.misplaced:.2g} of the probability, cache_tolerance is "
                    f"{self._tolerance:g}"
                )
        elif min(self._top_k, coding.num_classes) != coding.kept:
            differing.append(f"cache_top_k was {coding.kept}, now {self._top_k}")
        if coding.temperature not in (None, self._temperature):
            differing.append(f"temperature was {coding.temperature:g}, now {self._temperature:g}")
        if differing:
            raise UsageError(
                f"distill.cache: {self.folder} is of something else: {'; '.join(differing[:4])}; give "
                f"another folder, or make these the same"
            )
        return coding

    def _create(self, logits: Tensor) -> AnswerCoding:
        """Choose the coding on the first answers and write the header; another process may be faster."""
        coding = choose_coding(
            logits, temperature=self._temperature, top_k=self._top_k, tolerance=self._tolerance
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        header = {"format": FORMAT, "fingerprint": self._fingerprint, "coding": coding.to_json()}
        temporary = self.folder / f".{HEADER}.{os.getpid()}"
        temporary.write_text(json.dumps(header, indent=1), encoding="utf-8")
        try:
            os.link(temporary, self.folder / HEADER)
        except FileExistsError:
            stored = self._stored_coding()
            assert stored is not None
            return stored
        finally:
            temporary.unlink()
        log.info("teacher cache %s: %s", self.folder, coding)
        return coding


def open_cache(
    config: RunConfig,
    teacher: Teacher,
    *,
    classes: Sequence[str],
    student: InputContract,
    precision: str,
    data_fingerprint: str,
    steps_per_epoch: int,
) -> TeacherCache:
    """Open or begin the cache that `config.distill.cache` names.

    Raises UsageError where the folder holds the answers of another teacher, data set, order, batch size,
    augmentation or mixing.
    """
    distill = config.distill
    assert distill.cache is not None
    fingerprint = {
        "teacher": teacher.digest,
        "teacher_precision": precision,
        "data": data_fingerprint,
        "classes": list(classes),
        "data_seed": config.order_seed,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "views": distill.views,
        "augment": config.augment.model_dump(mode="json"),
        "mix": config.mix.model_dump(mode="json"),
        "input": student.to_json(),
    }
    return TeacherCache(
        Path(distill.cache),
        json.loads(json.dumps(fingerprint)),
        temperature=distill.tau,
        top_k=distill.cache_top_k,
        tolerance=distill.cache_tolerance,
        records_per_view=steps_per_epoch * config.accumulate,
        pictures=config.micro_batch_size,
    )


def _checksum(place: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(place.to_bytes(8, "little")))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif key in ("teacher", "data"):
            lines.append(f"the {key} is another one")
        else:
            lines.append(f"{prefix}{key} was {old!r}, now {new!r}")
    return lines


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IsopatchError(f"{path}: damaged ({error}); remove the folder to begin again") from None
    return document


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)

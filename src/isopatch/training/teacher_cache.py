"""What a teacher said, kept on disk for further runs that show it the same pictures.

Order, augmentation and mixing are functions of (data_seed, step), so a run with another `seed` replays every
view, mixing partner and weight of the run that asked the teacher. One file a pass over the data
(`view-00000.bin`) has a record for every micro-batch at its place: 8 bytes (a mark and a CRC-32 over place
and content), then the answers as `AnswerCoding` writes them. Answers that this would move too far are kept
in full, at their place in a second file (`view-00000-full.bin`, with holes). A missing or damaged record is
asked again; processes that fill one cache at the same time write the same records. `cache.json` says of what
it is.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from isopatch.errors import IsopatchError
from isopatch.files import replace_file
from isopatch.image.contract import InputContract
from isopatch.training.answer_coding import AnswerCoding, choose_coding, exact_coding
from isopatch.training.cache_header import (
    Header,
    Pictures,
    read_header,
    require_same,
    require_writable,
    write_header,
)
from isopatch.training.config import RunConfig
from isopatch.training.teacher import Teacher

log = logging.getLogger("isopatch")

COSTS = "asked-*.json"  # one file a run: pictures asked about, and seconds
_MARK = b"\x89ic2"
_PREFIX = 8  # bytes before a record's answers: mark and CRC-32


class TeacherCache:
    """A folder of answers to one teacher's views of one data set.

    Raises UsageError when it is opened for anything else than it was made for.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, Any],
        pictures: Pictures,
        *,
        temperature: float,
        soft: bool,
        top_k: int | None,
        tolerance: float,
        records_per_view: int,
        batch: int,
    ) -> None:
        """records_per_view: micro-batches of one pass over the data. batch: pictures in a micro-batch.

        soft: whether softened probabilities are learned, at `temperature`.
        """
        self.folder = folder
        self._fingerprint, self._pictures = dict(fingerprint), pictures
        self._temperature, self._soft = temperature, soft
        self._top_k, self._tolerance = top_k, tolerance
        self._per_view, self._batch = records_per_view, batch
        self._damaged = self._in_full = self._written = 0
        self.coding = self._stored_coding()

    def read(self, place: int) -> Tensor | None:
        """Return the answers (B, K) float32 at a place (micro-batches counted from the first), or None."""
        if self.coding is None:
            return None
        for coding in self._codings(self.coding):
            body = self._record(place, coding)
            if body is not None:
                return coding.decode(body, self._batch)
        return None

    def write(self, place: int, logits: Tensor) -> Tensor:
        """Keep the answers (B, K) of a place; return them as `read` will.

        Raises IsopatchError naming the cache where it cannot be written.
        """
        try:
            if self.coding is None:
                self.coding = self._create(logits)
            coding = self.coding
            if self._top_k is None and coding.loss_moved(logits) > self._tolerance:
                coding = exact_coding(coding.num_classes)
                self._in_full += 1
            self._written += 1
            body = coding.encode(logits)
            file, index = self._where(place, coding)
            record = _MARK + _checksum(place, body).to_bytes(4, "little") + body
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                done = os.pwrite(descriptor, record, index * len(record))
            finally:
                os.close(descriptor)
            if done < len(record):
                raise OSError(0, "there is no room for it")
        except OSError as error:
            raise self._unwritable(error) from None
        return coding.decode(body, self._batch)

    def report(self, run: str, *, remembered: int, asked: int, seconds: float) -> dict[str, Any]:
        """Return what the cache is and saved; keep how long the teacher takes, for runs that read.

        run: names the run, so that one that ends twice is counted once.
        """
        if asked:
            cost = json.dumps({"pictures": asked, "seconds": seconds}).encode()
            try:
                replace_file(self.folder / COSTS.replace("*", run), cost)
            except OSError as error:
                raise self._unwritable(error) from None
        each = self._seconds_per_picture()
        return {
            "folder": str(self.folder),
            "coding": None if self.coding is None else self.coding.to_json(),
            "tolerance": None if self._top_k is not None else self._tolerance,
            "bytes_per_picture": self._bytes_per_picture(),
            "teacher_seconds_per_picture": each,
            "teacher_seconds_saved": None if each is None else remembered * each,
            "damaged_records": self._damaged,
            "records_in_full": self._in_full,
        }

    def _seconds_per_picture(self) -> float | None:
        pictures, spent = 0, 0.0
        for file in sorted(self.folder.glob(COSTS)):
            try:
                cost = json.loads(file.read_text(encoding="utf-8"))
                pictures, spent = pictures + int(cost["pictures"]), spent + float(cost["seconds"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s is damaged (%s) and left out of what the teacher costs", file, error)
        return spent / pictures if pictures else None

    def _bytes_per_picture(self) -> float | None:
        """Of what this run wrote, or would have: records in full count with what they take."""
        if self.coding is None:
            return None
        compact, full = (
            _PREFIX + coding.size(self._batch)
            for coding in (self.coding, exact_coding(self.coding.num_classes))
        )
        share = self._in_full / self._written if self._written else 0.0
        return (compact + share * (full - compact)) / self._batch

    def _codings(self, coding: AnswerCoding) -> tuple[AnswerCoding, ...]:
        exact = exact_coding(coding.num_classes)
        return (coding,) if coding == exact else (coding, exact)

    def _record(self, place: int, coding: AnswerCoding) -> bytes | None:
        size = _PREFIX + coding.size(self._batch)
        file, index = self._where(place, coding)
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
        return record[_PREFIX:]

    def _where(self, place: int, coding: AnswerCoding) -> tuple[Path, int]:
        view, index = divmod(place, self._per_view)
        full = "" if coding == self.coding else "-full"
        return self.folder / f"view-{view:05d}{full}.bin", index

    def _stored_coding(self) -> AnswerCoding | None:
        """The coding of the cache in the folder, after it was seen to be of the same teacher and views."""
        require_writable(self.folder)
        header = read_header(self.folder)
        if header is None:
            return None
        require_same(
            header,
            self.folder,
            self._fingerprint,
            self._pictures,
            temperature=self._temperature if self._soft else None,
            top_k=self._top_k,
            tolerance=self._tolerance,
        )
        return header.coding

    def _create(self, logits: Tensor) -> AnswerCoding:
        """Choose the coding on the first answers and write the header; another process may be faster."""
        coding = choose_coding(
            logits, temperature=self._temperature, top_k=self._top_k, tolerance=self._tolerance
        )
        tolerance = None if self._top_k is not None else self._tolerance
        if not write_header(self.folder, Header(self._fingerprint, self._pictures, coding, tolerance)):
            stored = self._stored_coding()
            assert stored is not None
            return stored
        log.info("teacher cache %s: %s", self.folder, coding)
        return coding

    def _unwritable(self, error: OSError) -> IsopatchError:
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e6
        return IsopatchError(
            f"distill.cache: cannot write to {self.folder}: {error.strerror} ({free:,.1f} MB free there); "
            f"free some space or give another folder, then go on with --resume auto"
        )


def open_cache(
    config: RunConfig,
    teacher: Teacher,
    *,
    classes: Sequence[str],
    student: InputContract,
    precision: str,
    data_fingerprint: str,
    pictures: Pictures,
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
        "decode_short_side": config.data.decode_short_side,
        "classes": list(classes),
        "data_seed": config.order_seed,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "views": distill.views,
        "augment": config.augment.model_dump(mode="json"),
        "mix": config.mix.model_dump(mode="json"),
        # What training reads of the student's contract: a view has its size and its normalisation.
        "input": {key: getattr(student, key) for key in ("height", "width", "mean", "std")},
    }
    return TeacherCache(
        Path(distill.cache),
        json.loads(json.dumps(fingerprint)),
        pictures,
        temperature=distill.tau,
        soft=distill.weights.soft > 0,
        top_k=distill.cache_top_k,
        tolerance=distill.cache_tolerance,
        records_per_view=steps_per_epoch * config.accumulate,
        batch=config.micro_batch_size,
    )


def _checksum(place: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(place.to_bytes(8, "little")))

"""Which columns of a Parquet file hold the picture and the label, and what the classes are called.

The Hugging Face layout: an image column of struct<bytes, path> (or plain binary), a label column of integers
whose class names stand in the schema metadata, or of strings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")
_LABEL_NAMES = ("label", "labels", "class", "fine_label", "target", "cls", "category")


@dataclass(frozen=True)
class Columns:
    """The two columns that matter.

    names: the classes by number for an integer label with declared names; None otherwise.
    text: the label column holds strings.
    """

    image: str
    label: str
    names: tuple[str, ...] | None
    text: bool


def find_columns(schema: pa.Schema, path: Path) -> Columns:
    """Find the picture and label columns of one file; raises `UsageError` naming what is missing."""
    import pyarrow as pa

    features = _features(schema.metadata)
    image = choose_column(
        [f.name for f in schema if _type_of(features, f.name) == "Image"]
        or [f.name for f in schema if _holds_bytes(f.type)],
        _IMAGE_NAMES,
        f"{path}: no picture column in {schema.names}; expected 'image' of struct<bytes, path> or binary",
    )
    label = choose_column(
        [f.name for f in schema if _type_of(features, f.name) == "ClassLabel"]
        or [f.name for f in schema if f.name.lower() in _LABEL_NAMES],
        _LABEL_NAMES,
        f"{path}: no label column among {schema.names}; expected integers or text called 'label'",
    )
    kind = schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not text and not pa.types.is_integer(kind):
        raise UsageError(f"{path}: the label column '{label}' holds {kind}; expected integers or text")
    names = features.get(label, {}).get("names") if isinstance(features.get(label), dict) else None
    if text or not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        names = None
    return Columns(image, label, tuple(names) if names else None, text)


def stored_paths(shard: Path) -> list[str | None]:
    """Return, for each row of a Parquet file, the `path` beside its picture: what the file was called.

    None where the row has none, or the pictures are plain binary. Raises `UsageError` for a file that cannot
    be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as file:
            image = find_columns(file.schema_arrow, shard).image
            kind = file.schema_arrow.field(image).type
            if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
                return [None] * int(file.metadata.num_rows)
            rows = file.read(columns=[f"{image}.path"]).column(image).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{shard}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    return [None if row is None else row["path"] or None for row in rows]


def choose_column(found: list[str], preferred: tuple[str, ...], missing: str) -> str:
    """The one column found, or the preferred one of several."""
    if len(found) == 1:
        return found[0]
    for name in preferred:
        for column in found:
            if column.lower() == name:
                return column
    raise UsageError(f"{missing} (candidates: {found})" if found else missing)


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The `info.features` object of the Hugging Face metadata; empty where there is none or it is broken."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _type_of(features: dict[str, Any], name: str) -> str | None:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, dict) else None


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

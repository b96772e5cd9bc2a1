"""The results table: read it, or ask it in SQL (DuckDB)."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.errors import IsopatchError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "results.parquet"


def read_results(folder: Path) -> pa.Table:
    """Return the results table of a study's folder (or the Parquet file itself).

    Raises UsageError where there is none, IsopatchError where it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder if folder.suffix == ".parquet" else folder / TABLE
    if not path.is_file():
        raise UsageError(f"{path}: no such file; 'isopatch study report' writes it once a run is done")
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise IsopatchError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def query(table: pa.Table, sql: str) -> pa.Table:
    """Run one SQL query over the table, which is called `results`; it can read no file and write none.

    Column names with a dot are quoted in SQL: "factor.kernel_size". Raises UsageError for a wrong query and
    for one whose columns share a name, IsopatchError where DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise IsopatchError(
            "queries need DuckDB, which is not installed: pip install 'isopatch[study]'"
        ) from None
    with duckdb.connect() as connection:
        connection.register("results", table)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            found = connection.sql(sql)
            if found is None:
                raise UsageError("query: this statement asks for nothing; start with SELECT")
            twice = [name for name, times in Counter(found.columns).items() if times > 1]
            if twice:
                raise UsageError(
                    f"query: several columns are called {', '.join(twice)}; name them apart with AS"
                )
            return found.to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(f"query: {str(error).splitlines()[0]}") from None


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return a query's rows as JSON has words for them, one mapping of column to value each.

    Decimals (SQL's sums of whole numbers are some) become whole numbers or floats, what is not finite None,
    dates and times ISO 8601, bytes hexadecimal digits, intervals text.
    """
    return [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return [_plain(inner) for inner in value]
    return str(value)

"""The results table: read it, or ask it in SQL (DuckDB)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    IsopatchError where DuckDB is not installed.
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
            return found.to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(f"query: {str(error).splitlines()[0]}") from None

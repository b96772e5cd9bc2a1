"""The table of results can be asked in SQL, and the SQL reaches nothing else."""

from __future__ import annotations

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isopatch.cli import main
from isopatch.errors import IsopatchError, UsageError
from isopatch.study.query import plain_rows, query, read_results


@pytest.fixture
def table(rows_of):
    return pa.Table.from_pylist(rows_of({"kernel": ["3", "5"]}, lambda kernel, seed: int(kernel) / 10))


def test_a_query_of_the_results(table):
    found = query(
        table, 'SELECT "factor.kernel" AS k, avg(top1) AS mean FROM results GROUP BY ALL ORDER BY k'
    )
    assert found.to_pylist() == [{"k": "3", "mean": 0.3}, {"k": "5", "mean": 0.5}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{file}')",
        "COPY results TO '{file}'",
        "SET enable_external_access = true",
        "SELEC 1",
        "SELECT nothing FROM results",
    ],
)
def test_files_and_wrong_queries_are_refused_in_one_line(table, tmp_path, sql):
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError) as error:
        query(table, sql.format(file=file))
    assert "\n" not in str(error.value) and str(error.value).startswith("query: ")
    assert file.read_text() == "a,b\n1,2\n"


def test_without_duckdb_one_line_says_what_to_install(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(IsopatchError, match=r"pip install 'isopatch\[study\]'"):
        query(table, "SELECT 1")


def test_reading_the_table(table, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_results(tmp_path)
    pq.write_table(table, tmp_path / "results.parquet")
    assert read_results(tmp_path).equals(table)
    assert read_results(tmp_path / "results.parquet").equals(table)
    (tmp_path / "results.parquet").write_bytes(b"nothing like it")
    with pytest.raises(IsopatchError, match=r"results\.parquet: cannot be read"):
        read_results(tmp_path)


def test_what_sql_gives_is_plain_json(table, tmp_path, capsys):
    pq.write_table(table, tmp_path / "results.parquet")
    sql = """SELECT sum(seed) AS whole, avg(top1)::DECIMAL(6, 4) AS part, 'nan'::DOUBLE AS lost,
             [1.0, 'inf'::DOUBLE] AS list, {'a': 0.5::DECIMAL(3, 1)} AS inner, DATE '2026-01-02' AS day,
             TIMESTAMP '2026-01-02 03:04:05' AS moment, 'ab'::BLOB AS raw, INTERVAL 3 DAY AS span, true AS yes
             FROM results"""
    with pytest.raises(TypeError, match="not JSON serializable"):  # the control
        json.dumps(query(table, sql).to_pylist())
    assert main(["study", "query", str(tmp_path), sql, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "days=3" in row.pop("span")
    assert row == {
        "whole": 6,
        "part": 0.4,
        "lost": None,
        "list": [1.0, None],
        "inner": {"a": 0.5},
        "day": "2026-01-02",
        "moment": "2026-01-02T03:04:05",
        "raw": "6162",
        "yes": True,
    }
    assert main(["study", "query", str(tmp_path), sql]) == 0
    assert "2026-01-02T03:04:05" in capsys.readouterr().out
    whole = plain_rows(query(table, "SELECT 170141183460469231731687303715884105727::HUGEINT AS most"))
    assert whole == [{"most": 2**127 - 1}]


def test_two_columns_of_one_name_are_refused(table):
    with pytest.raises(UsageError, match="several columns are called seed; name them apart with AS"):
        query(table, "SELECT seed, top1, seed FROM results")
    assert query(table, "SELECT seed, seed AS again FROM results").column_names == ["seed", "again"]

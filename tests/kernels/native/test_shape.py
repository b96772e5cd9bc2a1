"""How rows are dealt out to tasks, where nothing is summed and where a weight's gradient is."""

from __future__ import annotations

import itertools

import pytest

from isopatch.kernels.native.shape import CHUNK, WEIGHT_SUMS, _even_chunk, weight_groups


def of_each(rows: int, threads: int, chunk: int) -> list[int]:
    """Rows of every thread where each takes the next task when it is done."""
    done = [0] * threads
    for start in range(0, rows, chunk):
        done[done.index(min(done))] += min(chunk, rows - start)
    return done


@pytest.mark.parametrize("tile", [6, 32])
def test_no_thread_waits_long_for_another(tile: int) -> None:
    for rows, threads in itertools.product((1, 49, 196, 324, 1024, 1568, 8192), (1, 2, 3, 8)):
        chunk = _even_chunk(rows, threads, tile)
        assert chunk <= CHUNK and chunk % tile == 0
        most, least_possible = max(of_each(rows, threads, chunk)), -(-rows // threads)
        assert most <= max(1.1 * least_possible, least_possible + tile), (rows, threads, chunk)


def test_whole_chunks_stay_where_there_are_many() -> None:
    assert _even_chunk(32768, 2, 6) == CHUNK
    assert max(of_each(1024, 2, CHUNK)) > 1.1 * 512, "which 1024 places of a picture are not"


def test_groups_of_a_weights_gradient_grow_with_the_rows_and_stay_within_memory() -> None:
    assert weight_groups(100, 1, 1024) == 1, "a chunk is not divided"
    assert weight_groups(32768, 171, 1024) == 8
    assert weight_groups(65536, 342, 1024) == 16
    assert weight_groups(10**7, 10**5, 1024) == 32
    assert weight_groups(65536, 342, WEIGHT_SUMS // 3) == 3
    assert weight_groups(65536, 342, 2 * WEIGHT_SUMS) == 1

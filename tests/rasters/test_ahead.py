"""Tiles that threads read ahead: their order, their threads, and how many."""

import threading
import time

import pytest

from rsr_cli.core.rasters import ahead
from rsr_cli.core.rasters.ahead import read_ahead
from rsr_cli.core.rasters.pixels import memory_of


def tile(source, left=0, top=0, size=64):
    return {"id": f"{source} {left} {top}", "properties": {"source": source, "window": [left, top, size, size]}}


def scene(source, columns, rows, size=64):
    return [[tile(source, size * column, size * row, size) for column in range(columns)] for row in range(rows)]


def threads_of(batches):
    """Return the names of the tiles as they were read, and the thread of each."""

    def read(tiles):
        time.sleep(0.001)
        return [(tile["id"], threading.get_ident()) for tile in tiles]

    found = [pair for run in read_ahead(batches, read, lambda tile: tile, n_bands=1) for pair in run]
    return [name for name, _ in found], dict(found)


def test_the_order_is_kept_and_all_threads_read():
    batches = [*scene("a.tif", 70, 40), [tile(f"{i}.png") for i in range(200)]]
    names, threads = threads_of(batches)
    assert names == [tile["id"] for batch in batches for tile in batch]
    assert len(set(threads.values())) == min(ahead.READER_THREADS, ahead.cores() + 1)


@pytest.mark.parametrize(("size", "width"), [(64, 1024), (224, 3584), (10, 1024)])
def test_one_thread_reads_a_part_of_a_raster(size, width):
    batches = scene("a.tif", 5000 // size, 3000 // size, size)
    _, threads = threads_of(batches)
    of_parts = {}
    for batch in batches:
        for one in batch:
            left, top, *_ = one["properties"]["window"]
            of_parts.setdefault((left // width, top // 1024), set()).add(threads[one["id"]])
    assert {len(found) for found in of_parts.values()} == {1}
    assert len(set(threads.values())) > 1


@pytest.mark.parametrize("source", ["B02.jp2", "B02.JP2", "x.j2k", {"blue": "B02.jp2", "red": "B03.jp2"}])
def test_one_thread_reads_a_file_that_gdal_decodes_in_threads(source):
    _, threads = threads_of(scene(source, 40, 40))
    assert len(set(threads.values())) == 1


def test_no_more_is_read_ahead_than_memory_allows(monkeypatch):
    monkeypatch.setattr(ahead, "MAX_TILE_BYTES", 5 * memory_of(64 * 64, 3))
    monkeypatch.setattr(ahead, "STRIP_BYTES", 2 * memory_of(64 * 64, 3))
    done, most = [], 0

    def read(tiles):
        done.extend(tiles)
        return tiles

    taken = 0
    for run in read_ahead(scene("a.tif", 40, 3), read, lambda tile: tile, n_bands=3, ahead=1000):
        assert len(run) <= 2
        time.sleep(0.001)
        most = max(most, len(done) - taken)
        taken += len(run)
    assert taken == 120
    assert 2 <= most <= 5


def test_an_error_ends_it_and_what_is_not_read_yet_is_left_out():
    read = []

    def fail(tiles):
        read.extend(tiles)
        if len(read) > 100:
            raise OSError("gone")
        return tiles

    with pytest.raises(OSError, match="gone"):
        for _ in read_ahead(scene("a.tif", 16, 1000), fail, lambda tile: tile, n_bands=1):
            pass
    before = threading.active_count()
    for _ in read_ahead(scene("a.tif", 16, 1000), lambda tiles: read.extend(tiles), lambda tile: tile, n_bands=1):
        break
    time.sleep(0.2)
    assert threading.active_count() <= before
    assert len(read) < 3000

"""Tiles that threads read ahead: their order, their threads, and how many."""

import threading
import time

import numpy as np
import pytest
import rasterio

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
    assert len(set(threads.values())) == min(ahead.READER_THREADS, ahead.cores())


def parts(batches, threads, part_of):
    """Return the threads that read each part."""
    found = {}
    for batch in batches:
        for one in batch:
            found.setdefault(part_of(*one["properties"]["window"]), set()).add(threads[one["id"]])
    return found


@pytest.mark.parametrize(("size", "width"), [(64, 1024), (224, 3584), (10, 1024)])
def test_one_thread_reads_a_part_of_a_raster(tmp_path, write_raster, size, width):
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    path = write_raster(tmp_path / "x.tif", np.zeros((1, 3000, 5000), np.uint8), **blocks)
    batches = scene(path, 5000 // size, 3000 // size, size)
    _, threads = threads_of(batches)
    found = parts(batches, threads, lambda left, top, *_: (left // width, top // 1024))
    assert {len(threads) for threads in found.values()} == {1}
    assert len(set(threads.values())) > 1


@pytest.mark.parametrize(("size", "rows"), [(16, 40), (64, 64)])
def test_one_thread_reads_a_row_of_blocks_as_wide_as_the_raster(tmp_path, write_raster, size, rows):
    path = write_raster(tmp_path / "x.tif", np.zeros((1, 900, 1100), np.uint8), blockysize=40)
    batches = scene(path, 1100 // size, 900 // size, size)
    _, threads = threads_of(batches)
    found = parts(batches, threads, lambda _, top, *__: top // rows)
    assert {len(threads) for threads in found.values()} == {1}
    assert len(set(threads.values())) > 1


@pytest.mark.parametrize("driver", ["PNG", "JPEG", "JP2OpenJPEG"])
def test_one_thread_reads_a_file_that_is_decoded_as_a_whole(tmp_path, driver):
    path = str(tmp_path / "x")
    zeros = np.zeros((1, 640, 640), np.uint8)
    with rasterio.open(path, "w", driver=driver, width=640, height=640, count=1, dtype="uint8") as raster:
        raster.write(zeros)
    for source in (path, {"red": path, "blue": path}):
        _, threads = threads_of(scene(source, 40, 40, 16))
        assert len(set(threads.values())) == 1


def test_files_of_one_tile_are_read_by_all_threads():
    _, threads = threads_of([[tile(f"{i}.png") for i in range(8)]])
    assert len(set(threads.values())) == min(ahead.READER_THREADS, ahead.cores(), 8)


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


def test_an_error_ends_it():
    read = []

    def fail(tiles):
        read.extend(tiles)
        if len(read) > 100:
            raise OSError("gone")
        return tiles

    with pytest.raises(OSError, match="gone"):
        for _ in read_ahead(scene("a.tif", 16, 1000), fail, lambda tile: tile, n_bands=1):
            pass


def test_what_is_not_read_yet_is_left_out_once_nobody_wants_it():
    started, go, read = threading.Event(), threading.Event(), []

    def wait(tiles):
        if not started.is_set():
            started.set()
            return tiles
        go.wait(10)
        read.append(tiles)
        return tiles

    found = read_ahead(scene("a.tif", 16, 1000), wait, lambda tile: tile, n_bands=1, ahead=1000)
    next(found)
    found.close()
    go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("reader"):
            thread.join(10)
            assert not thread.is_alive()
    assert len(read) <= ahead.READER_THREADS  # of more than 60 that waited

"""Rows in the order of a Hilbert curve."""

from __future__ import annotations

import itertools

import geopandas
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import shapely
from support import drawn_record, read_all

from rsr_cli.core.errors import Skips, UsageError
from rsr_cli.core.records import parquet, streams
from rsr_cli.core.records.hilbert import LEVEL, hilbert_numbers

RNG = np.random.default_rng(2)


def points(xy):
    return np.concatenate([xy, xy], axis=1)


def test_each_step_of_the_curve_leads_to_a_neighbour():
    cells = np.array(list(itertools.product(range(32), range(32))))
    order = np.argsort(hilbert_numbers(points((cells + 0.5) / 32 * (360, 180) - (180, 90))))
    assert set(np.abs(np.diff(cells[order], axis=0)).sum(axis=1)) == {1}


def test_the_curve_is_that_of_geopandas():
    xy = (RNG.integers(0, 255, (1000, 2)) + 0.001) / 255 * (360, 180) - (180, 90)  # the cells that it makes of them
    theirs = geopandas.GeoSeries(shapely.points(xy)).hilbert_distance(total_bounds=(-180, -90, 180, 90), level=8)
    assert np.array_equal(hilbert_numbers(points(xy)) >> np.uint64(2 * LEVEL - 16), theirs.to_numpy())


def test_rows_without_a_place_come_last():
    numbers = hilbert_numbers(np.array([[179.9, -90, 180, -89.9], [np.nan] * 4]))
    assert numbers[0] < numbers[1]


@pytest.fixture
def scattered(tmp_path):
    records = []
    for i, (x, y) in enumerate(RNG.uniform((-170, -80), (170, 80), (3000, 2)).round(3).tolist()):
        place = {"type": "Point", "coordinates": [x, y]} if i % 100 else None
        records.append(drawn_record(f"t{i}") | {"geometry": place, "bbox": [x, y, x, y]})
        if place is None:
            del records[-1]["bbox"]
    (tmp_path / "e.geojsonl").write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return tmp_path / "e.geojsonl"


@pytest.mark.parametrize("max_files", [2, 256])
def test_row_groups_are_small_places(scattered, tmp_path, monkeypatch, max_files):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 250)
    monkeypatch.setattr("rsr_cli.core.records.hilbert.MAX_FILES", max_files)
    for hilbert in (False, True):
        with streams.Writer(str(tmp_path / f"{hilbert}.parquet"), Skips(), hilbert=hilbert) as out:
            for batch in streams.read([str(scattered)], Skips(), ("embedding",)):
                out.write(batch)
    plain, ordered = (pq.ParquetFile(tmp_path / f"{hilbert}.parquet") for hilbert in (False, True))
    for file in (plain, ordered):
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [250] * 12
    by_id = {row["id"]: row for row in plain.read().to_pylist()}
    rows = ordered.read().to_pylist()
    assert {row["id"]: row for row in rows} == by_id
    places = np.array([[row["bbox"][side] if row["bbox"] else np.nan for side in ("xmin", "ymin")] for row in rows])
    numbers = hilbert_numbers(points(places))
    assert (np.diff(numbers.astype(np.int64)) >= 0).all()
    assert np.isnan(places[-30:]).all()

    def extent(file):
        groups = [file.read_row_group(i).to_pylist() for i in range(11)]
        return np.mean([np.ptp([row["bbox"]["xmin"] for row in group if row["bbox"]]) for group in groups])

    assert extent(ordered) < extent(plain) / 2


def test_a_command_orders_what_it_writes(rsr, scattered, tmp_path):
    done = rsr("binarize", scattered, "--hilbert", "-o", "c.parquet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(read_all(tmp_path / "c.parquet")[0]) == sorted(f"t{i}" for i in range(3000))
    assert {path.name for path in tmp_path.iterdir()} == {"e.geojsonl", "c.parquet"}
    done = rsr("binarize", scattered, "--hilbert", "-o", "c.geojsonl", cwd=tmp_path)
    says = b"rsr binarize: c.geojsonl: only Parquet files are written in the order of a Hilbert curve\n"
    assert (done.returncode, done.stderr) == (2, says)
    with pytest.raises(UsageError):
        streams.Writer(None, Skips(), hilbert=True)


def test_an_empty_stream_has_no_order(rsr, tmp_path):
    assert rsr("binarize", "--hilbert", "-o", "c.parquet", input=b"", cwd=tmp_path).returncode == 0
    assert pq.read_metadata(tmp_path / "c.parquet").num_rows == 0

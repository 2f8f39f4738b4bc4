"""The layouts of published tables of embeddings, written by who writes them where that is at hand."""

from __future__ import annotations

from types import SimpleNamespace

import geopandas
import numpy as np
import orjson
import pandas as pd
import pyproj
import pytest
import shapely

RNG = np.random.default_rng(10)


def hits_of(rsr, folder, source, query, space="s", metric="cosine"):
    """Index a table, and query it with one of its items."""
    done = rsr("index", source, "--space", space, "--metric", metric, "-o", "x.rsr", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    done = rsr("query", "x.rsr", "--id", query, "-k", "100", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def by_cosine(vectors, i):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.argsort(-units @ units[i], kind="stable").tolist()


@pytest.mark.parametrize("nested", [False, True])
def test_major_tom(rsr, tmp_path, nested):
    n, dim = 12, 1152 if nested else 384
    vectors = RNG.standard_normal((n, dim)).astype(np.float32)
    lons, lats = 10 + np.arange(n) / 10, np.full(n, 47.0)
    utm = pyproj.Transformer.from_crs(4326, 32632, always_xy=True)
    footprints = [shapely.box(x - 1120, y - 1120, x + 1120, y + 1120).wkt
                  for x, y in zip(*utm.transform(lons, lats), strict=True)]  # fmt: skip
    properties = {
        "grid_cell": [f"522U_{i}R" for i in range(n)], "grid_row_u": [522] * n, "grid_col_r": list(range(n)),
        "product_id": [f"S2A_MSIL2A_20240601T103629_N0510_R008_T32TPT_{i}" for i in range(n)],
        "timestamp": ["2024-06-01 10:36:29"] * n, "centre_lat": lats.tolist(), "centre_lon": lons.tolist(),
        "utm_footprint": footprints, "utm_crs": ["EPSG:32632"] * n, "pixel_bbox": [[0, 0, 224, 224]] * n,
    }  # fmt: skip
    rows = [[row.tolist()] for row in vectors] if nested else list(vectors)
    frame = {"unique_id": [f"u{i:02}" for i in range(n)], "embedding": rows, **properties}
    places = shapely.box(lons - 0.01, lats - 0.01, lons + 0.01, lats + 0.01)
    geopandas.GeoDataFrame(frame, geometry=places, crs="EPSG:4326").to_parquet(tmp_path / "major_tom.parquet")
    hits = hits_of(rsr, tmp_path, "major_tom.parquet", "u03")
    order = by_cosine(vectors, 3)
    assert [hit["id"] for hit in hits] == [f"u{i:02}" for i in order]
    for hit, i in zip(hits, order, strict=True):
        found = {name: hit["properties"][name] for name in properties}
        assert found == {name: values[i] for name, values in properties.items()}
        assert hit["properties"]["datetime"] == "2024-06-01T10:36:29Z"
        assert shapely.geometry.shape(hit["geometry"]).equals(places[i])


@pytest.fixture(scope="module")
def terratorch():
    """Return terratorch's own writer of embeddings."""
    return pytest.importorskip("terratorch.tasks").EmbeddingGenerationTask


def metadata_of(n):
    """Build what terratorch's data sets state of a batch."""
    lefts = 400_000.0 + 2240 * np.arange(n)
    return {
        "product_id": [f"p{i}" for i in range(n)], "time": ["2024-06-01T10:36:29"] * n,
        "grid_cell": [f"1U_{i}R" for i in range(n)], "grid_row_u": np.full(n, 1), "grid_col_r": np.arange(n),
        "crs": ["EPSG:32632"] * n, "bounds": [[x, 5e6, x + 2240, 5e6 + 2240] for x in lefts],
    }  # fmt: skip


@pytest.mark.parametrize("form", ["parquet", "parquet_joint", "neuco_csv"])
def test_terratorch(rsr, tmp_path, terratorch, form):
    torch = pytest.importorskip("torch")
    n, dim = 10, 768
    vectors = RNG.standard_normal((n, dim)).astype(np.float32)
    task = SimpleNamespace(output_format=form, num_workers=2, input_shape=(224, 224), pixel_size=10.0,
                           _part_idx={"00": None}, _part_dir={})  # fmt: skip
    for name in ("iter_samples", "write_parquet", "write_parquet_batch", "write_neuco_parquet_batch"):
        setattr(task, name, getattr(terratorch, name).__get__(task))
    folder = tmp_path / "layer_00"
    names, metadata = [f"tile{i}.tif" for i in range(n)], metadata_of(n)
    for some in (slice(0, 6), slice(6, n)):
        part = {name: values[some] for name, values in metadata.items()}
        terratorch.write_batch(task, torch.from_numpy(vectors[some]), names[some], part, folder)
    if form == "parquet_joint":
        terratorch.join_parquet_files(task)
    if form == "neuco_csv":
        terratorch.join_neuco_parts_to_csv(task)
    hits = hits_of(rsr, tmp_path, "layer_00/embeddings.csv" if form == "neuco_csv" else "layer_00", "tile3")
    order = by_cosine(vectors, 3)
    assert [hit["id"] for hit in hits] == [f"tile{i}" for i in order]
    if form == "neuco_csv":
        assert {hit["geometry"] for hit in hits} == {None}
        return
    lonlat = pyproj.Transformer.from_crs(32632, 4326, always_xy=True)
    for hit, i in zip(hits, order, strict=True):
        assert hit["properties"]["product_id"] == f"p{i}"
        assert (hit["properties"]["grid_row_u"], hit["properties"]["grid_col_r"]) == (1, i)
        assert hit["properties"]["datetime"] == "2024-06-01T10:36:29Z"
        west, south, east, north = metadata["bounds"][i]
        corners = lonlat.transform([west, east], [south, north])
        assert hit["bbox"][:2] == pytest.approx([side[0] for side in corners], abs=1e-3)


def test_tokens_are_not_one_vector(rsr, tmp_path, terratorch):
    """Without pooling, terratorch writes a list per token."""
    task = SimpleNamespace(input_shape=None, pixel_size=10.0)
    terratorch.write_parquet(task, RNG.standard_normal((4, 8)), "a.tif", {}, tmp_path)
    done = rsr("index", "a_embedding.parquet", "--space", "s", "-o", "x.rsr", cwd=tmp_path)
    says = "a_embedding.parquet: has 4 lists in its column embedding per row, and not one"
    assert (done.returncode, done.stderr.decode()) == (1, f"rsr index: {says}\n")


def test_clay_v1_5_in_the_way_of_hive(rsr, tmp_path):
    vectors = RNG.standard_normal((6, 1024)).astype(np.float32)
    for month in (5, 6):
        rows = slice(3 * (month - 5), 3 * (month - 4))
        boxes = [{"xmin": i, "ymin": 1.0, "xmax": i + 1.0, "ymax": 2.0} for i in range(3)]
        frame = {
            "chips_id": [f"c{month}{i}" for i in range(3)], "cell_id": list("abc"), "collection": "sentinel-2-l2a",
            "datetime": pd.to_datetime(["2024-06-01T10:00:00Z"] * 3), "embedding": list(vectors[rows]), "bbox": boxes,
        }  # fmt: skip
        path = tmp_path / f"clay/gzd=32T/year=2024/month={month:02}/part.parquet"
        path.parent.mkdir(parents=True)
        places = [shapely.box(i, 1, i + 1, 2) for i in range(3)]
        geopandas.GeoDataFrame(frame, geometry=places, crs="OGC:CRS84").to_parquet(path)
    hits = hits_of(rsr, tmp_path, "clay", "c61")
    assert [hit["id"] for hit in hits] == [f"c{5 + i // 3}{i % 3}" for i in by_cosine(vectors, 4)]
    assert {name: hits[0]["properties"][name] for name in ("gzd", "year", "month", "cell_id", "datetime")} == {
        "gzd": "32T", "year": 2024, "month": 6, "cell_id": "b", "datetime": "2024-06-01T10:00:00Z"
    }  # fmt: skip

"""What every test file shares: the real ``rsr``, real rasters, and the real imagery where it is there."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real imagery that lies beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real imagery is not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def rsr() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the real ``rsr`` in a process of its own."""

    def run(*arguments: object, input: bytes | None = None, cwd: object = None, env: dict[str, str] | None = None):  # noqa: A002
        return subprocess.run(
            [sys.executable, "-m", "rsr_cli.main", *map(str, arguments)],
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def write_raster():
    """Give a function that writes a GeoTIFF, or lossless JPEG 2000 where the path ends so, and returns its path."""
    import numpy as np
    import rasterio

    north_up = rasterio.Affine(10, 0, 600000, 0, -10, 5300040)

    def write(path, pixels, *, crs="EPSG:32633", transform=north_up, mask=None, names=None, gcps=None, **profile):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(pixels)
        pixels = pixels if pixels.ndim == 3 else pixels[None]
        lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        profile = (lossless if path.suffix == ".jp2" else {"driver": "GTiff"}) | profile
        shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True), dtype=pixels.dtype)
        place = {} if gcps else {"crs": crs, "transform": transform}
        with rasterio.open(path, "w", **shape, **place, **profile) as raster:
            raster.write(pixels)
            if mask is not None:
                raster.write_mask(mask)
            if names:
                raster.descriptions = names
            if gcps:
                raster.gcps = gcps, rasterio.crs.CRS.from_user_input(crs)
        return str(path)

    return write


@pytest.fixture(scope="session")
def cut():
    """Give a function that cuts rasters into tiles in this process, and returns the records."""
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.rasters import Tiler, TileSettings

    def tiles(*paths, size=None, **settings):
        if size:
            settings = {"size_px": size, "stride_px": size} | settings
        tiler = Tiler(TileSettings(whole=not size, **settings), Skips())
        return [tile for row in tiler.tiles(map(str, paths)) for tile in row]

    return tiles


@pytest.fixture(scope="session")
def miniature_layouts():
    """Give the module that writes miniature copies of BigEarthNet and ForestNet for the examples of the paper."""
    spec = importlib.util.spec_from_file_location("miniature", ROOT / "examples" / "paper" / "miniature.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def hit():
    """Return a function that makes a hit; labels that are ``None`` are left out."""

    def make(query, rank, item, labels, query_labels):
        known = {"labels": labels, "query_labels": query_labels}
        properties = {"query": query, "rank": rank, "distance": 1.5}
        properties |= {name: value for name, value in known.items() if value is not None}
        return {"type": "Feature", "id": item, "geometry": None, "properties": properties}

    return make


@pytest.fixture(scope="session")
def item():
    """Return a function that makes a record of the database."""

    def make(name, labels):
        return {"type": "Feature", "id": name, "geometry": None, "properties": {"labels": labels}}

    return make


@pytest.fixture(scope="session")
def lines():
    """Return a function that writes records as JSON lines."""
    import orjson

    def write(records):
        return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)

    return write


@pytest.fixture(scope="session")
def world(hit):
    """Return a function that draws items (id -> one to three labels) and, for some as queries, random hits."""

    def draw(seed=0, n_items=120, n_queries=25, depth=30):
        rng = random.Random(seed)
        labels = {f"i{n}": sorted(rng.sample("abcdefg", rng.choice([1, 1, 2, 3]))) for n in range(n_items)}
        hits = []
        for query in rng.sample(sorted(labels), n_queries):
            for rank, name in enumerate(rng.sample(sorted(labels), depth), 1):
                hits.append(hit(query, rank, name, labels[name], labels[query]))
        return labels, hits

    return draw

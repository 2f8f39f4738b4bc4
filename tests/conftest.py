"""What every test file shares: the real ``rsr``, real rasters, and the real imagery where it is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support_rasters import KINDS, NAMES, ONES, RNG, SENTINEL2, SPLITS, bilinear, grid, with_holes

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the directory of real imagery that is beside the project on some machines."""
    if not SHARED.is_dir():
        pytest.skip("the directory of real imagery is not beside the project")
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
    """Return a function that writes a GeoTIFF, or lossless JPEG 2000 to *.jp2, and returns its path."""
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
    """Return a function that cuts rasters into tiles in this process, and returns the records.

    Its settings are those of all parts of the tiler together; without a ``size`` each scene is one tile.
    """
    from rsr_cli.core.errors import Skips
    from rsr_cli.core.rasters import ChipWriter, SceneSettings, Tiler, WindowSettings
    from rsr_cli.core.sensors import SENSORS
    from rsr_cli.core.sources import DATASETS, Products, Rasters

    def tiles(*paths, size=None, sensor=None, chips=None, overwrite=False, skips=None, **settings):
        def take(*names):
            return {name: settings.pop(name) for name in names if name in settings}

        bands = settings.get("bands")
        sensor = SENSORS[sensor] if sensor else None
        source = Rasters()
        if dataset := settings.pop("dataset", None):
            source = DATASETS[dataset](bands=bands, **take("split", "classes", "seed"))
        elif settings.pop("per_band", False):
            source = Products(sensor, bands)
        steps = {"size_px": size, "stride_px": size} if size else {"whole": True}
        windows = WindowSettings(**steps | take("stride_px", "edge", "min_valid"))
        writer = ChipWriter(str(chips), overwrite) if chips else None
        tiler = Tiler(source, SceneSettings(sensor=sensor, **settings), windows, skips or Skips(), writer)
        return [tile for row in tiler.tiles(map(str, paths)) for tile in row]

    return tiles


@pytest.fixture(scope="session")
def miniature_layouts():
    """Return the module that writes miniature copies of BigEarthNet and ForestNet for the paper's examples."""
    spec = importlib.util.spec_from_file_location("miniature", ROOT / "examples" / "paper" / "miniature.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=KINDS)
def holes(request, tmp_path, write_raster):
    """Return a raster with holes, its invalid values as bool (bands, height, width), and the settings it needs."""
    path, invalid = with_holes(request.param, tmp_path / "x.tif", write_raster)
    assert (tmp_path / "x.tif.msk").exists() == (request.param == "mask beside")
    names = {"bands": ["red", "-", "nir"]} if request.param == "infinite" else {"bands": ["red", "green", "nir"]}
    by_sensor = {"sensor": "landsat5", "scale": 1.0, "offset": 0.0} if request.param == "nodata of the sensor" else {}
    return path, invalid, names | by_sensor


@pytest.fixture(scope="session")
def mixed(tmp_path_factory, write_raster):
    """Return a scene of 240 x 180 pixels of 10 m with bands of 10, 20 and 60 m, and its pixels by STAC name."""
    folder = tmp_path_factory.mktemp("mixed") / "S2A_MSIL2A_20210115T101351"
    pixels = {}
    for metres, bands in SENTINEL2.items():
        for number, band in enumerate(bands):
            values = RNG.uniform(100 + number, 9000, (1800 // metres, 2400 // metres)).astype(np.float32)
            write_raster(folder / f"T33UUP_{band}.tif", values, transform=grid(metres))
            pixels[NAMES[band]] = bilinear(values.astype(float), metres // 10)
    return folder, pixels


@pytest.fixture
def nested(tmp_path, write_raster):
    """Return a directory with rasters at several depths, and other files."""
    for name in ("b.tif", "a.TIFF", "c/b.tif", "c/a/z.jp2", "B/x.y.tif", "c/10.img"):
        driver = {"driver": "HFA"} if name.endswith("img") else {}
        write_raster(tmp_path / "in" / name, ONES, **driver)
    for name in ("b.tif.aux.xml", "notes.txt", "c/b.tif.ovr", "c/.hidden"):
        (tmp_path / "in" / name).write_text("")
    return tmp_path / "in"


@pytest.fixture(scope="session")
def miniature(tmp_path_factory, miniature_layouts):
    """Return a directory with BigEarthNet v1.0 and ForestNet, as the paper's examples write them."""
    folder = tmp_path_factory.mktemp("data")
    miniature_layouts.write_bigearthnet(folder / "BigEarthNet", SPLITS)
    miniature_layouts.write_forestnet(folder / "ForestNetDataset", SPLITS)
    return folder

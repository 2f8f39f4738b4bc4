"""Rasters, products and checks of records that several test modules share."""

import json
import re
from datetime import datetime

import numpy as np
import rasterio
from rasterio import Affine

from rsr_cli.core import rasters
from rsr_cli.core.sensors.base import COMMON_NAMES, contract
from rsr_cli.core.sensors.embeddings import PRODUCTS

SIX = ("blue", "green", "red", "nir08", "swir16", "swir22")

RNG = np.random.default_rng(20)

# Sentinel-2's bands in ESA's order, and what Level 2A has of them.
VISIBLE = ("coastal", "blue", "green", "red")

L1C = [*VISIBLE, "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22"]

L2A = [name for name in L1C if name != "cirrus"]

ONES = np.ones((1, 8, 8), "uint16")

LC08 = "LC08_L2SP_020039_20150804_20200908_02_T1_"

SPLITS = {"val": 3, "test": 5}


def bands_of(count, height, width, dtype="uint16"):
    """Return pixels that identify their band and place: thousands are the band, the rest is noise."""
    noise = RNG.integers(0, 999, (count, height, width))
    return (np.arange(1, count + 1)[:, None, None] * 1000 + noise).astype(dtype)


def bilinear(coarse, factor):
    """Interpolate between pixel centres; the outermost pixels extend to the edge."""
    rows, columns = ((np.arange(n * factor) + 0.5) / factor - 0.5 for n in coarse.shape)
    across = np.stack([np.interp(columns, np.arange(coarse.shape[1]), row) for row in coarse])
    return np.stack([np.interp(rows, np.arange(coarse.shape[0]), column) for column in across.T]).T


def repeat(coarse, factor):
    return np.repeat(np.repeat(coarse, factor, axis=-2), factor, axis=-1)


def window_of(record):
    column, row, width, height = record["properties"]["window"]
    return np.s_[..., row : row + height, column : column + width]


def grid(metres):
    return Affine(metres, 0, 600000, 0, -metres, 5300040)


def same_pixels(one, two, names):
    read = [rasters.read_pixels(tile, names) for tile in (one, two)]
    np.testing.assert_allclose(*read, rtol=1e-6)
    return read[0]


def product(folder, write_raster, stem, bands, ending=".tif", dtype="int16", **options):
    """Write one small file per band, each with its own value: 100 times its place in the list."""
    for number, band in enumerate(bands, 1):
        write_raster(folder / f"{stem}{band}{ending}", np.full((4, 4), 100 * number, dtype), **options)


def values(tile):
    """Read one pixel of each band."""
    names = tile["properties"]["bands"]
    return dict(zip(names, rasters.read_pixels(tile, names)[:, 0, 0].tolist(), strict=True))


def safe(folder, write_raster, baseline, level="L2A"):
    """Write a small Sentinel-2 product as ESA lays it out; return its bands' pixels by file name."""
    name = f"S2B_MSI{level}_20220115T101309_{baseline}_R022_T33UUP_20220115T120000.SAFE"
    granule = folder / name / "GRANULE" / f"{level}_T33UUP_A025397_20220115T101310"
    stem = "T33UUP_20220115T101309_"
    rng = np.random.default_rng(5)
    pixels = {}

    def write(path, metres, dtype="uint16", count=1):
        shape = (count, 720 // metres, 720 // metres)
        pixels[path] = rng.integers(1, 250, shape).astype(dtype) * (1 if dtype == "uint8" else 40)
        write_raster(granule / path, pixels[path], transform=grid(metres))

    fine, coarse, far = ["B02", "B03", "B04", "B08"], ["B05", "B06", "B07", "B8A", "B11", "B12"], ["B01", "B09"]
    if level == "L2A":
        for band in (*fine, "AOT", "WVP"):
            write(f"IMG_DATA/R10m/{stem}{band}_10m.jp2", 10)
        write(f"IMG_DATA/R10m/{stem}TCI_10m.jp2", 10, "uint8", 3)
        for band in ("B01", *fine[:3], *coarse, "AOT"):
            write(f"IMG_DATA/R20m/{stem}{band}_20m.jp2", 20)
        write(f"IMG_DATA/R20m/{stem}SCL_20m.jp2", 20, "uint8")
        for band in (*far, *fine[:3], *coarse, "AOT"):
            write(f"IMG_DATA/R60m/{stem}{band}_60m.jp2", 60)
    else:
        for metres, bands in ((10, fine), (20, coarse), (60, [*far, "B10"])):
            for band in bands:
                write(f"IMG_DATA/{stem}{band}.jp2", metres)
        write(f"IMG_DATA/{stem}TCI.jp2", 10, "uint8", 3)
    for band in ("B02", "B8A"):
        write(f"QI_DATA/MSK_DETFOO_{band}.jp2", 20, "uint8")
        write(f"QI_DATA/MSK_QUALIT_{band}.jp2", 20, "uint8")
    write("QI_DATA/MSK_CLDPRB_20m.jp2", 20, "uint8")
    return name, pixels


def rows_of(path):
    return [line.split(",") for line in path.read_text().splitlines()]


HOLES = np.zeros((40, 50), bool)
HOLES[:7, :11] = HOLES[20, 30] = HOLES[35:, 49] = True

IN_ONE_BAND = np.zeros((3, 40, 50), bool)
IN_ONE_BAND[1, 25:28, 3:9] = True


def with_holes(kind, path, write_raster):
    """Write three bands, invalid in HOLES; if values mark them, the middle one in IN_ONE_BAND too."""
    pixels = bands_of(3, 40, 50)
    everywhere = np.broadcast_to(HOLES, pixels.shape)
    by_value = everywhere | IN_ONE_BAND
    if kind == "nodata":
        return write_raster(path, np.where(by_value, 7, pixels), nodata=7), by_value
    if kind == "nodata of the sensor":
        return write_raster(path, np.where(by_value, 0, pixels)), by_value
    if kind in ("nan", "nan is nodata", "infinite", "nodata and nan"):
        value = {"infinite": -np.inf, "nodata and nan": -9999.0}.get(kind, np.nan)
        pixels = np.where(by_value, value, pixels).astype(np.float32)
        if kind == "nodata and nan":
            pixels[IN_ONE_BAND] = np.nan
        return write_raster(path, pixels, nodata={"nan is nodata": np.nan, "nodata and nan": -9999}.get(kind)), by_value
    if kind in ("alpha", "alpha and nodata"):
        clear = np.where(HOLES, 0, 65535)[None]
        clear[0, 39, 0] = 1  # nearly transparent is still there
        rgba = np.concatenate([pixels, clear]).astype("uint16")
        if kind == "alpha":
            return write_raster(path, rgba, photometric="rgb", alpha="yes"), everywhere
        rgba[:3][IN_ONE_BAND] = 7
        return write_raster(path, rgba, photometric="rgb", alpha="yes", nodata=7), by_value
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind != "mask beside"):
        if kind == "mask and nodata":
            return write_raster(path, np.where(IN_ONE_BAND, 7, pixels), mask=~HOLES, nodata=7), everywhere
        return write_raster(path, pixels, mask=~HOLES), everywhere


KINDS = (
    *("nodata", "nodata of the sensor", "nan", "nan is nodata", "infinite", "nodata and nan"),
    *("alpha", "alpha and nodata", "internal mask", "mask beside", "mask and nodata"),
)

SENTINEL2 = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12"), 60: ("B01", "B09")}

NAMES = {f"B{number:02}": name for number, name in enumerate([n for n in L1C if n != "nir08"], 1)} | {"B8A": "nir08"}


def is_number(value):
    return type(value) in (int, float)


def are_numbers(value):
    return is_number(value) or (isinstance(value, list) and all(map(is_number, value)))


#: Field of a record -> check of its value, as in docs/design.md.
PROPERTIES = {
    "source": lambda v: isinstance(v, str) or (isinstance(v, dict) and all(isinstance(p, str) for p in v.values())),
    "window": lambda v: len(v) == 4 and all(type(n) is int for n in v) and min(v[2:]) > 0,
    "bands": lambda v: set(v) <= {*COMMON_NAMES, "-", *(contract(sensor.order)[0] for sensor in PRODUCTS.values())},
    "scale": are_numbers,
    "offset": are_numbers,
    "unit": lambda v: v in ("dB", "power", "amplitude"),
    "nodata": is_number,
    "proj:code": lambda v: v is None or re.fullmatch(r"[A-Z]+:\d+", v),
    "proj:wkt2": lambda v: isinstance(v, str),
    "proj:transform": lambda v: len(v) == 6 and all(map(is_number, v)),
    "gsd": lambda v: is_number(v) and v > 0,
    "proj:shape": lambda v: len(v) == 2 and all(type(n) is int for n in v),
    "grid:code": lambda v: re.fullmatch(r"[A-Z0-9]+-[-_.A-Za-z0-9]+", v),  # as the schema of STAC's grid extension 1.1
    "datetime": lambda v: v is None or (v.endswith("Z") and datetime.fromisoformat(v)),
    **dict.fromkeys(("start_datetime", "end_datetime"), lambda v: v.endswith("Z") and datetime.fromisoformat(v)),
    "collection": lambda v: isinstance(v, str),
    "valid": lambda v: is_number(v) and 0 <= v <= 1,
    "space": lambda v: v in PRODUCTS,
    "decode": lambda v: v == {"power": 2} or (set(v) == {"scales"} and isinstance(v["scales"], str)),
    "mask": lambda v: isinstance(v["source"], str) and set(v) <= {"source", "values", "bits"} and len(v) > 1,
    "eo:cloud_cover": lambda v: is_number(v) and 0 <= v <= 100,
    "labels": lambda v: isinstance(v, list) and all(isinstance(label, str) for label in v),
}


def check_record(record):
    """Check that a record is a Feature with the fields in docs/design.md."""
    assert record["type"] == "Feature"
    assert isinstance(record["id"], str)
    assert record["id"]
    assert set(record) == {"type", "id", "geometry", "properties"} | ({"bbox"} if record["geometry"] else set())
    properties = record["properties"]
    assert set(properties) >= {"source", "window", "bands", "scale", "offset", "proj:shape"}
    for name, value in properties.items():
        assert PROPERTIES[name](value), (name, value)
    assert properties["proj:shape"] == properties["window"][:1:-1]
    if isinstance(properties["source"], dict):
        assert list(properties["source"]) == properties["bands"]


def records(done):
    """Return the records that a run wrote, checked."""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for record in found:
        check_record(record)
    return found


def messages(done):
    """Return the lines that a run wrote to stderr, without a traceback."""
    text = done.stderr.decode()
    assert "Traceback" not in text
    assert all(re.match("rsr (tile|embed): ", line) for line in text.splitlines())
    return text.splitlines()

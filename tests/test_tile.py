"""``rsr tile`` as people use it: products as they are named, ids, labels, lists, real imagery, and what goes wrong."""

import json
import os
import re
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, RasterError, UsageError
from rsr_cli.core.sensors.base import COMMON_NAMES, SENSORS

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
ONES = np.ones((1, 8, 8), "uint16")


def grid(metres):
    return Affine(metres, 0, 600000, 0, -metres, 5300040)


def is_number(value):
    return type(value) in (int, float)


#: Field of a record -> what the design page says of it.
PROPERTIES = {
    "source": lambda v: isinstance(v, str) or (isinstance(v, dict) and all(isinstance(p, str) for p in v.values())),
    "window": lambda v: len(v) == 4 and all(type(n) is int for n in v) and min(v[2:]) > 0,
    "bands": lambda v: set(v) <= {*COMMON_NAMES, "-"},
    "scale": is_number,
    "offset": is_number,
    "nodata": is_number,
    "proj:code": lambda v: v is None or re.fullmatch(r"[A-Z]+:\d+", v),
    "proj:wkt2": lambda v: isinstance(v, str),
    "proj:transform": lambda v: len(v) == 6 and all(map(is_number, v)),
    "proj:shape": lambda v: len(v) == 2 and all(type(n) is int for n in v),
    "datetime": lambda v: v.endswith("Z") and datetime.fromisoformat(v),
    "valid": lambda v: is_number(v) and 0 <= v <= 1,
    "labels": lambda v: isinstance(v, list) and all(isinstance(label, str) for label in v),
}


def check_record(record):
    """Check that a record is a Feature with the fields of the design page."""
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
    """Read what a run wrote."""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for record in found:
        check_record(record)
    return found


def messages(done):
    """Read what a run said, without a traceback."""
    text = done.stderr.decode()
    assert "Traceback" not in text
    assert all(line.startswith("rsr tile: ") for line in text.splitlines())
    return text.splitlines()


# The stream ----------------------------------------------------------------------------------------------------------


def test_every_option_reaches_the_tiles(tmp_path, write_raster, cut, rsr):
    pixels = np.random.default_rng(1).integers(0, 3, (3, 40, 60)).astype("uint8")
    pixels[:, :20] = 0
    write_raster(tmp_path / "in" / "Lake" / "a.tif", pixels, nodata=0)
    write_raster(tmp_path / "in" / "b.tif", pixels, nodata=0)
    command = ["tile", "--size", 16, "--stride", 12, "--edge", "shift", "--min-valid", "0.2", "--sensor", "rgb"]
    command += ["--scale", 3, "--offset", -7, "--datetime", "2023-06-10T09:46:21+02:00", "--labels-from-parent"]
    command += ["--bands", "blue,-,green", "--id-prefix", "x/", "--chips", "chips", "-o", "out.geojsonl", "in"]
    done = rsr(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    settings = {"size": 16, "stride_px": 12, "edge": "shift", "min_valid": 0.2, "sensor": "rgb", "scale": 3.0}
    settings |= {"offset": -7.0, "datetime": "2023-06-10T07:46:21Z", "labels_from_parent": True, "id_prefix": "x/"}
    expected = cut(tmp_path / "in", bands=["blue", "-", "green"], **settings)
    written = [json.loads(line) for line in (tmp_path / "out.geojsonl").read_bytes().splitlines()]
    assert 0 < len(written) == len(expected) < 2 * 3 * 5
    assert messages(done) == [
        f"rsr tile: {2 * 3 * 5 - len(expected)} tiles without enough valid pixels left out; see --min-valid"
    ]
    for record, tile in zip(written, expected, strict=True):
        check_record(record)
        tile["properties"]["source"] = tile["properties"]["source"].removeprefix(f"{tmp_path}/")
        in_chip = {"source": f"chips/{record['id']}.tif", "window": [0, 0, 16, 16], "bands": ["blue", "green"]}
        assert record == tile | {"properties": tile["properties"] | in_chip}
        assert record["properties"]["labels"] == ["in" if "/b_" in record["id"] else "Lake"]
    before = (tmp_path / "out.geojsonl").read_bytes()
    (refused,) = messages(rsr(*command, cwd=tmp_path))
    assert refused == "rsr tile: out.geojsonl: exists already; pass --overwrite to replace it"
    (tmp_path / "out.geojsonl").rename(tmp_path / "elsewhere")
    assert f"rsr tile: chips/{written[0]['id']}.tif: exists already" in messages(rsr(*command, cwd=tmp_path))[0]
    assert rsr(*command, "--overwrite", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out.geojsonl").read_bytes() == before


def test_gdal_reads_the_stream(tmp_path, write_raster, rsr):
    pyogrio = pytest.importorskip("pyogrio")
    geopandas = pytest.importorskip("geopandas")
    write_raster(tmp_path / "over 180.tif", ONES, crs="EPSG:4326", transform=Affine(1, 0, 176, 0, -1, 4), names=["red"])
    write_raster(tmp_path / "placed.tif", ONES, names=["red"], nodata=0)
    write_raster(tmp_path / "unplaced.tif", ONES, crs=None, transform=Affine.identity(), names=["red"])
    done = rsr("tile", "--size", 8, tmp_path, "-o", tmp_path / "out.geojsonl")
    assert done.returncode == 0
    assert pyogrio.read_info(tmp_path / "out.geojsonl")["driver"] == "GeoJSONSeq"
    frame = geopandas.read_file(tmp_path / "out.geojsonl")
    assert list(frame["id"]) == ["over 180_0_0", "placed_0_0", "unplaced_0_0"]
    assert [shape and shape.geom_type for shape in frame.geometry] == ["MultiPolygon", "Polygon", None]
    assert frame.crs.equals("OGC:CRS84") or frame.crs.equals("EPSG:4326")
    area = frame.geometry.iloc[[1]].to_crs("EPSG:32633").area.item()
    assert area == pytest.approx(80 * 80, rel=1e-3)
    assert frame["proj:code"].tolist()[:2] == ["EPSG:4326", "EPSG:32633"]


def test_records_without_pixels_to_read(tmp_path, rsr):
    # Nothing but the header of 241 million pixels is looked at.
    profile = {"width": 10980, "height": 10980, "count": 2, "dtype": "uint16", "nodata": 0, "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "x.tif", "w", "GTiff", transform=grid(10), SPARSE_OK=True, **profile) as raster:
        raster.descriptions = ["red", "nir"]
    done = rsr("tile", "--size", "512", "--min-valid", "0", tmp_path / "x.tif")
    found = records(done)
    assert (done.returncode, messages(done), len(found)) == (0, [], 21 * 21)
    assert len({record["id"] for record in found}) == 21 * 21
    assert all("valid" not in record["properties"] for record in found)


# Ids, labels, lists --------------------------------------------------------------------------------------------------


@pytest.fixture
def nested(tmp_path, write_raster):
    """Give a directory with rasters at several depths, and other files."""
    for name in ("b.tif", "a.TIFF", "c/b.tif", "c/a/z.jp2", "B/x.y.tif", "c/10.img"):
        driver = {"driver": "HFA"} if name.endswith("img") else {}
        write_raster(tmp_path / "in" / name, ONES, **driver)
    for name in ("b.tif.aux.xml", "notes.txt", "c/b.tif.ovr", "c/.hidden"):
        (tmp_path / "in" / name).write_text("")
    return tmp_path / "in"


def test_a_directory_is_walked_in_order(nested, cut):
    ids = [tile["id"] for tile in cut(nested, bands=["red"])]
    assert ids == ["a", "b", "B/x.y", "c/10", "c/b", "c/a/z"]
    sources = [tile["properties"]["source"] for tile in cut(nested, bands=["red"])]
    assert sources == [
        str(nested / name) for name in ("a.TIFF", "b.tif", "B/x.y.tif", "c/10.img", "c/b.tif", "c/a/z.jp2")
    ]


def test_ids_are_the_same_from_anywhere(nested, cut, monkeypatch):
    ids = [tile["id"] for tile in cut(nested, bands=["red"], size=4)]
    assert len(set(ids)) == len(ids) == 6 * 4
    moved = shutil.copytree(nested, nested.parent / "moved" / "elsewhere")
    for start, path in (
        (nested, "."),
        (nested.parent, "in"),
        (nested, "../in/"),
        (moved.parent, moved),
        (moved / "c", ".."),
    ):
        monkeypatch.chdir(start)
        assert [tile["id"] for tile in cut(path, bands=["red"], size=4)] == ids
    for path in (nested / "c" / "b.tif", "b.tif", "./b.tif", "../c/b.tif"):
        assert [tile["id"] for tile in cut(path, bands=["red"])] == ["b"]


def test_ids_that_would_not_be_unique_are_refused(nested, write_raster, cut, rsr):
    with pytest.raises(
        RasterError, match=r"c/b\.tif: its tiles would have the ids of another scene, b; .* --id-prefix"
    ):
        cut(nested / "b.tif", nested / "c" / "b.tif", bands=["red"])
    write_raster(nested / "a.png", np.ones((1, 8, 8), "uint8"), driver="PNG")
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", nested, nested / "c")
    assert done.returncode == 3
    assert [record["id"] for record in records(done)] == ["a", "b", "B/x.y", "c/10", "c/b", "c/a/z", "10", "a/z"]
    refused = [line.split(": its tiles")[0] for line in messages(done) if "ids of another scene" in line]
    assert refused == [f"rsr tile: {nested}/a.png", f"rsr tile: {nested}/c/b.tif"]


def test_labels_are_the_parents_names(nested, cut, monkeypatch):
    labels = [tile["properties"]["labels"] for tile in cut(nested, bands=["red"], labels_from_parent=True)]
    assert labels == [["in"], ["in"], ["B"], ["c"], ["c"], ["a"]]
    monkeypatch.chdir(nested / "c")
    for path, label in (("b.tif", "c"), ("../b.tif", "in"), ("a/../b.tif", "c"), (".", "c"), ("../B", "B")):
        assert cut(path, bands=["red"], labels_from_parent=True)[0]["properties"]["labels"] == [label]


def test_a_list_of_files(tmp_path, write_raster, rsr):
    names = ["z.tif", "a b.tif", "deep/ü.tif"]
    for name in names:
        write_raster(tmp_path / name, ONES, names=["red"])
    text = "\n".join([*names[:2], "", f"./{names[2]}"])  # no line feed at the end
    (tmp_path / "list").write_text(text)
    runs = [
        rsr("tile", "--whole", "--files-from", "-", input=text.encode(), cwd=tmp_path),
        rsr("tile", "--whole", "--files-from", "list", cwd=tmp_path),
    ]
    assert runs[0].stdout == runs[1].stdout
    found = records(runs[0])
    assert [record["id"] for record in found] == ["z", "a b", "ü"]
    assert [record["properties"]["source"] for record in found] == ["z.tif", "a b.tif", "./deep/ü.tif"]


def test_a_list_of_directories_of_single_band_files(tmp_path, write_raster, cut, rsr):
    for name in ("p1", "p2", "deep/p3"):
        for band in ("B02", "B03"):
            write_raster(tmp_path / name / f"x_{band}.tif", ONES)
    command = ["tile", "--whole", "--per-band", "--sensor", "sentinel2-l2a", "--files-from", "-"]
    done = rsr(*command, input=b"p2\ndeep/p3\np1\n", cwd=tmp_path)
    found = records(done)
    assert [record["id"] for record in found] == ["p2", "p3", "p1"]
    assert found[0]["properties"]["source"] == {"blue": "p2/x_B02.tif", "green": "p2/x_B03.tif"}
    tree = cut(tmp_path, per_band=True, sensor="sentinel2-l2a", labels_from_parent=True)
    assert [tile["id"] for tile in tree] == ["deep/p3", "p1", "p2"]
    assert [tile["properties"]["labels"] for tile in tree] == [["deep"], [tmp_path.name], [tmp_path.name]]


def test_the_directory_given_names_a_scene_of_single_band_files(tmp_path, write_raster, cut, monkeypatch):
    write_raster(tmp_path / "product" / "sub" / "x_B2.tif", ONES)
    settings = {"per_band": True, "sensor": "landsat8", "labels_from_parent": True}
    for start, path in ((".", "product/sub"), ("product/sub", "."), ("product/sub", "../sub"), ("product", "sub/")):
        monkeypatch.chdir(tmp_path / start)
        (tile,) = cut(path, **settings)
        assert (tile["id"], tile["properties"]["labels"]) == ("sub", ["product"])
    (tmp_path / "product" / "sub" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "product" / "sub" / "below")
    (tile,) = cut("..", **settings)
    assert (tile["id"], tile["properties"]["labels"]) == ("sub", ["product"])


def test_links_are_followed_once(tmp_path, write_raster, cut):
    write_raster(tmp_path / "real" / "x.tif", ONES)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "in")
    assert [tile["id"] for tile in cut(tmp_path / "in", bands=["red"])] == ["link/x"]


def test_a_subdataset_is_named_by_file_and_part(shared_data, cut):
    awkward = shared_data / "awkward"
    (tile,) = cut(f"netcdf:{awkward}/RGB.nc:Band2", bands=["green"])
    assert tile["id"] == "RGB_Band2"
    with rasterio.open(f"netcdf:{awkward}/RGB.nc:Band2") as raster:
        truth = raster.read(1, masked=True).astype(float).filled(np.nan)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["green"])[0], truth)
    (tile,) = cut(f"HDF5:{awkward}/two-subs.h5://data2", bands=["green"])
    assert tile["id"] == "two-subs_data2"


# Products ------------------------------------------------------------------------------------------------------------


def product(folder, write_raster, stem, bands, ending=".tif", dtype="int16", **options):
    """Write one small file a band, each of its own value: 100 times its place in the list."""
    for number, band in enumerate(bands, 1):
        write_raster(folder / f"{stem}{band}{ending}", np.full((4, 4), 100 * number, dtype), **options)


def values(tile):
    """Read one pixel of each band."""
    names = tile["properties"]["bands"]
    return dict(zip(names, rasters.read_pixels(tile, names)[:, 0, 0].tolist(), strict=True))


def test_hls(tmp_path, write_raster, cut):
    s30 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12", "Fmask", "SZA"]
    l30 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11", "Fmask", "VAA"]
    product(tmp_path / "s", write_raster, "HLS.S30.T10SFH.2020001T185751.v2.0.", s30, nodata=-9999)
    product(tmp_path / "l", write_raster, "HLS.L30.T10SFH.2020366T184512.v2.0.", l30)
    (tile,) = cut(tmp_path / "s", per_band=True, sensor="hls-s30")
    assert tile["properties"]["datetime"] == "2020-01-01T18:57:51Z"
    found = values(tile)
    assert (found["blue"], found["nir"], found["nir08"], found["swir22"], len(found)) == (200, 800, 900, 1300, 13)
    (tile,) = cut(tmp_path / "l", per_band=True, sensor="hls-l30")
    assert tile["properties"]["datetime"] == "2020-12-31T18:45:12Z"
    # B10 and B11 are thermal; B09 is cirrus, B05 near infrared, unlike S30's.
    expected = {"coastal": 100, "blue": 200, "green": 300, "red": 400, "nir08": 500, "swir16": 600, "swir22": 700}
    assert values(tile) == expected | {"cirrus": 800}
    # Fill, whether the files declare it or not.
    for folder, sensor in (("s", "hls-s30"), ("l", "hls-l30")):
        name = next((tmp_path / folder).glob("*.B04.tif")).name
        write_raster(tmp_path / "fill" / folder / name, np.array([[-9999, 5], [0, -9999]], "int16"))
        (tile,) = cut(tmp_path / "fill" / folder, per_band=True, sensor=sensor)
        np.testing.assert_array_equal(rasters.read_pixels(tile, ["red"])[0], [[np.nan, 5], [0, np.nan]])
    with pytest.raises(BandError, match="is of a product of hls-l30, by its name or metadata, and --sensor is hls-s30"):
        cut(tmp_path / "l", per_band=True, sensor="hls-s30")
    with pytest.raises(BandError, match="is of a product of hls-s30, by its name or metadata, and --sensor is hls-l30"):
        cut(tmp_path / "s", per_band=True, sensor="hls-l30")


def test_eight_bit_colours(tmp_path, write_raster, cut):
    pixels = np.arange(0, 3 * 85, 85, dtype="uint8")[:, None, None] + np.zeros((3, 4, 4), "uint8")
    (tile,) = cut(write_raster(tmp_path / "x.png", pixels, driver="PNG"), sensor="rgb")
    assert values(tile) == pytest.approx({"red": 0, "green": 10000 / 3, "blue": 20000 / 3})
    with pytest.raises(BandError, match="holds uint16 numbers, and rgb has uint8; pass --scale"):
        cut(write_raster(tmp_path / "y.tif", pixels.astype("uint16")), sensor="rgb")


LC08 = "LC08_L2SP_020039_20150804_20200908_02_T1_"


def test_landsat_collection_2(tmp_path, write_raster, cut):
    bands = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7", "ST_B10", "QA_PIXEL", "SR_QA_AEROSOL"]
    product(tmp_path / LC08[:-1], write_raster, LC08, bands, ".TIF", "uint16")
    red = np.full((4, 4), 20000, "uint16")
    red[1, 2] = 0  # fill, which the file does not declare
    write_raster(tmp_path / LC08[:-1] / f"{LC08}SR_B4.TIF", red)
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat8", bands=["red", "nir08", "swir22"])
    assert tile["id"] == LC08[:-1]
    properties = tile["properties"]
    assert (properties["scale"], properties["offset"], properties["datetime"]) == (0.275, -2000, "2015-08-04T00:00:00Z")
    read = rasters.read_pixels(tile, ["red", "nir08", "swir22"])
    np.testing.assert_allclose(read[:, 0, 0], [20000 * 0.275 - 2000, 500 * 0.275 - 2000, 700 * 0.275 - 2000])
    assert np.argwhere(np.isnan(read)).tolist() == [[0, 1, 2]]
    assert properties["valid"] == pytest.approx(15 / 16)
    with pytest.raises(
        BandError, match="is of a product of landsat8, by its name or metadata, and --sensor is landsat5"
    ):
        cut(tmp_path, per_band=True, sensor="landsat5")
    # In a directory of another name, the time is in the files'.
    (tmp_path / LC08[:-1]).rename(tmp_path / "lake")
    (tile,) = cut(tmp_path / "lake", per_band=True, sensor="landsat8")
    assert (tile["id"], tile["properties"]["datetime"]) == ("lake", "2015-08-04T00:00:00Z")


@pytest.mark.parametrize(("platform", "sensor"), [("LT05", "landsat5"), ("LT04", "landsat5"), ("LE07", "landsat7")])
def test_landsat_4_to_7(tmp_path, write_raster, cut, platform, sensor):
    bands = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7", "ST_B6", "SR_ATMOS_OPACITY"]
    stem = f"{platform}_L2SP_033033_19990110_20200908_02_T1_"
    product(tmp_path, write_raster, stem, bands, ".TIF", "uint16")
    (tile,) = cut(tmp_path, per_band=True, sensor=sensor, scale=1.0, offset=0.0)
    assert values(tile) == {"blue": 100, "green": 200, "red": 300, "nir08": 400, "swir16": 500, "swir22": 600}
    assert tile["properties"]["datetime"] == "1999-01-10T00:00:00Z"


def test_landsat_level_1_has_another_scale(tmp_path, write_raster, cut):
    product(tmp_path, write_raster, LC08.replace("L2SP", "L1TP"), ["B4", "B5"], ".TIF", "uint16")
    with pytest.raises(BandError, match="is of a Level-1 product, and landsat8 is Level 2; pass --scale and"):
        cut(tmp_path, per_band=True, sensor="landsat8")
    (tile,) = cut(tmp_path, per_band=True, sensor="landsat8", scale=0.2, offset=-1000.0)
    assert values(tile) == pytest.approx({"red": -980, "nir08": -960})


def test_scale_alone_does_not_lose_the_offset(tmp_path, write_raster, cut):
    product(tmp_path, write_raster, LC08, ["SR_B4", "SR_B5"], ".TIF", "uint16")
    with pytest.raises(UsageError, match="--scale replaces that of landsat8, whose offset is -2000; pass --offset too"):
        cut(tmp_path, per_band=True, sensor="landsat8", scale=0.275)


def test_a_landsat_products_metadata_tells_what_it_is(tmp_path, write_raster, cut):
    """Where the files' names do not: level, spacecraft, time."""
    level_1, level_2 = tmp_path / "one", tmp_path / "two"
    for folder, stem, level in ((level_1, "scene_", "L1TP"), (level_2, "scene_SR_", "L2SP")):
        product(folder, write_raster, stem, ["B4", "B5"], ".TIF", "uint16")
        facts = {"PROCESSING_LEVEL": level, "SPACECRAFT_ID": "LANDSAT_9", "DATE_ACQUIRED": "2023-07-04"}
        lines = [f'    {key} = "{value}"' for key, value in facts.items()]
        lines += ['    SCENE_CENTER_TIME = "10:02:14.1234567Z"', '    PROCESSING_LEVEL = "L1TP"', "END"]
        (folder / "scene_MTL.txt").write_text("\n".join(lines))
    with pytest.raises(BandError, match="is of a Level-1 product, and landsat8 is Level 2"):
        cut(level_1, per_band=True, sensor="landsat8")
    (tile,) = cut(level_2, per_band=True, sensor="landsat8")
    assert tile["properties"]["datetime"] == "2023-07-04T10:02:14Z"
    assert values(tile) == pytest.approx({"red": 100 * 0.275 - 2000, "nir08": 200 * 0.275 - 2000})
    for sensor in ("landsat7", "sentinel2-l2a"):
        with pytest.raises(BandError, match=f"is of a product of landsat8, by its name or metadata.*{sensor}"):
            cut(level_2, per_band=True, sensor=sensor)


@pytest.mark.parametrize("sensor", ["landsat8", "hls-s30", "sentinel2-l1c"])
def test_a_sentinel_2_product_is_not_taken_for_another(tmp_path, write_raster, cut, sensor):
    safe(tmp_path, write_raster, "N0509")
    with pytest.raises(BandError, match=f"is of a product of sentinel2-l2a, by its name or metadata.*{sensor}"):
        cut(tmp_path, per_band=True, sensor=sensor)


def test_a_tile_that_cannot_be_read_is_skipped_alone(tmp_path, write_raster, rsr):
    pixels = np.random.default_rng(0).integers(1, 9, (1, 64, 64), dtype="uint8")
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    path = Path(write_raster(tmp_path / "x.tif", pixels, names=["red"], nodata=0, **blocks))
    with rasterio.open(path) as raster:
        offset, size = (int(raster.get_tag_item(f"BLOCK_{what}_1_2", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    whole = path.read_bytes()
    path.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    done = rsr("tile", "--size", "16", "--keep-going", path)
    assert done.returncode == 3
    said = done.stderr.decode().splitlines()
    assert len(said) == 3  # it, the count, and that uint8 is taken as reflectance
    assert "(tile x_16_32); skipped" in said[1]
    ids = {json.loads(line)["id"] for line in done.stdout.splitlines()}
    assert ids == {f"x_{x}_{y}" for x in range(0, 64, 16) for y in range(0, 64, 16)} - {"x_16_32"}


def test_a_list_of_paths_with_windows_line_ends(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "x.tif", np.ones((1, 4, 4), "uint16"), names=["red"])
    done = rsr("tile", "--whole", "--files-from", "-", input=b"x.tif\r\n", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def safe(folder, write_raster, baseline, level="L2A"):
    """Write a small Sentinel-2 product as ESA lays it out; give its bands' pixels by file name."""
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


def test_a_safe_tree_of_level_2a(tmp_path, write_raster, cut, monkeypatch):
    name, pixels = safe(tmp_path, write_raster, "N0400")
    (whole,) = cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a")
    properties = whole["properties"]
    assert whole["id"] == "GRANULE/L2A_T33UUP_A025397_20220115T101310/IMG_DATA"
    assert properties["datetime"].startswith("2022-01-15T10:13:")
    assert properties["window"] == [0, 0, 72, 72]
    finest = {band: path.split("_")[-1] for band, path in properties["source"].items()}
    expected = dict.fromkeys(["blue", "green", "red", "nir"], "10m.jp2")
    expected |= dict.fromkeys(
        ["coastal", "rededge071", "rededge075", "rededge078", "nir08", "swir16", "swir22"], "20m.jp2"
    )
    assert finest == expected | {"nir09": "60m.jp2"}
    assert list(properties["source"]) == list(SENSORS["sentinel2-l2a"].order)
    assert (properties["scale"], properties["offset"]) == (1, -1000)

    tiles = cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a", size=31, stride_px=17)
    assert len(tiles) == 9
    for tile in tiles:
        column, row, _, _ = tile["properties"]["window"]
        here = np.s_[row : row + 31, column : column + 31]
        for band, file, factor in (
            ("red", "R10m/{}B04_10m", 1),
            ("nir08", "R20m/{}B8A_20m", 2),
            ("nir09", "R60m/{}B09_60m", 6),
        ):
            dn = pixels[f"IMG_DATA/{file.format('T33UUP_20220115T101309_')}.jp2"][0].astype(float)
            centres = (np.arange(72) + 0.5) / factor - 0.5
            across = np.stack([np.interp(centres, np.arange(len(dn)), line) for line in dn])
            fine = np.stack([np.interp(centres, np.arange(len(dn)), line) for line in across.T]).T
            read = rasters.read_pixels(tile, [band])[0]
            assert np.abs(read - (fine[here] - 1000)).max() <= (0 if factor == 1 else 0.501)  # whole numbers

    (by_parent,) = cut(tmp_path, per_band=True, sensor="sentinel2-l2a")
    assert by_parent["id"].startswith(name)
    assert by_parent["properties"]["datetime"] == "2022-01-15T10:13:09Z"
    # The offset does not hang on how the product is called upon.
    monkeypatch.chdir(tmp_path / name / "GRANULE" / "L2A_T33UUP_A025397_20220115T101310" / "IMG_DATA")
    file = "R10m/T33UUP_20220115T101309_B02_10m.jp2"
    for tile, count in (
        *((cut(path, per_band=True, sensor="sentinel2-l2a")[0], 12) for path in (".", "../IMG_DATA")),
        (cut("R20m", per_band=True, sensor="sentinel2-l2a")[0], 10),
        (cut(file, sensor="sentinel2-l2a", bands=["blue"])[0], 1),
    ):
        assert tile["id"] == {12: "IMG_DATA", 10: "R20m", 1: Path(file).stem}[count]
        assert len(tile["properties"]["bands"]) == count
        assert tile["properties"]["offset"] == -1000
        assert tile["properties"]["datetime"] == "2022-01-15T10:13:09Z"
    (tile,) = cut(".", per_band=True, sensor="sentinel2-l2a", offset=0.0)
    assert tile["properties"]["offset"] == 0


@pytest.mark.parametrize(("baseline", "offset"), [("N0300", 0), ("N0214", 0), ("N0510", -1000)])
def test_a_safe_tree_of_level_1c(tmp_path, write_raster, cut, baseline, offset):
    name, pixels = safe(tmp_path, write_raster, baseline, "L1C")
    (tile,) = cut(tmp_path / name, per_band=True, sensor="sentinel2-l1c")
    assert tile["properties"]["bands"] == list(SENSORS["sentinel2-l1c"].order)
    assert tile["properties"]["offset"] == offset
    blue = pixels["IMG_DATA/T33UUP_20220115T101309_B02.jp2"][0]
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["blue"])[0], blue.astype(float) + offset)


def test_the_offset_needs_the_products_own_directory(tmp_path, write_raster, cut):
    name = "S2B_MSIL2A_20220115T101309_N0400_R022_T33UUP_20220115T120000"
    for folder, offset in ((name, 0), (f"{name}.SAFE", -1000)):
        write_raster(tmp_path / folder / "B02.tif", ONES)
        (tile,) = cut(tmp_path / folder, per_band=True, sensor="sentinel2-l2a")
        assert tile["properties"]["offset"] == offset


@pytest.mark.parametrize(
    ("sensor", "name", "when"),
    [
        ("sentinel2-l2a", "S2A_MSIL2A_20170613T101031_N0205_R022_T33UUP_20170613T101608", "2017-06-13T10:10:31Z"),
        ("sentinel2-l2a", "S2A_MSIL2A_20170613T101031_87_48", "2017-06-13T10:10:31Z"),
        ("sentinel2-l1c", "T33UUP_20170613T101031_B02", "2017-06-13T10:10:31Z"),
        (
            "sentinel2-l1c",
            "S2A_OPER_PRD_MSIL1C_PDMC_20151231T144725_R008_V20151230T105153_20151230T105159",
            "2015-12-30T10:51:53Z",
        ),
        ("sentinel2-l1c", "S2A_OPER_MSI_L1C_TL_SGS__20151230T141433_A002726_T31UFS_B02", None),
        ("sentinel2-l2a", "S2A_MSIL2A_20171313T101031_87_48", None),
        ("sentinel2-l2a", "S2B_MSIL2A_20170924T93020_69_24", "2017-09-24T09:30:20Z"),
        ("hls-s30", "HLS.S30.T10SFH.2020060T185751.v2.0.B02", "2020-02-29T18:57:51Z"),
        ("hls-s30", "HLS.S30.T10SFH.2021400T185751.v2.0.B02", None),
        ("landsat8", "LC09_L2SP_020039_20230804_20230908_02_T1_SR_B5", "2023-08-04T00:00:00Z"),
        ("eurosat", "20170613T101031", None),
        ("rgb", "S2A_MSIL2A_20170613T101031_87_48", None),
    ],
)
def test_the_time_in_a_products_name(tmp_path, write_raster, cut, sensor, name, when):
    dtype = SENSORS[sensor].dtypes[0]
    path = write_raster(tmp_path / f"{name}.tif", ONES.astype(dtype))
    (tile,) = cut(path, sensor=sensor, bands=["red"])
    assert tile["properties"].get("datetime") == when
    (tile,) = cut(path, sensor=sensor, bands=["red"], datetime="2001-02-03T04:05:06Z")
    assert tile["properties"]["datetime"] == "2001-02-03T04:05:06Z"


# Real imagery --------------------------------------------------------------------------------------------------------


def test_eurosat(shared_data, cut):
    (folder,) = {path.parent for path in (shared_data / "eurosat_ms").glob("SeaLake/*.tif")}
    tiles = cut(folder, sensor="eurosat", labels_from_parent=True)
    assert len(tiles) == len(list(folder.glob("*.tif")))
    for tile in tiles[:5]:
        check_record(tile)
        with rasterio.open(tile["properties"]["source"]) as raster:
            truth = raster.read([2, 3, 4, 13, 11, 12])  # the six Prithvi bands
        read = rasters.read_pixels(tile, ["blue", "green", "red", "nir08", "swir16", "swir22"])
        np.testing.assert_array_equal(read, truth)
        assert tile["properties"]["labels"] == ["SeaLake"]
        # Water is darker the longer the wave, most of all in the bands that eurosat's order could confuse.
        assert read[0].mean() > read[2].mean() > read[4].mean()


def test_two_orders_of_the_same_bands(shared_data, cut):
    path = next((shared_data / "terramind" / "S2L1C").glob("*.tif"))
    (tile,) = cut(path, sensor="sentinel2-l1c")
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(rasters.read_pixels(tile, ["nir08", "nir09", "cirrus"]), raster.read([9, 10, 11]))
    (other,) = cut(path.parents[1] / "S2L2A" / path.name, sensor="sentinel2-l2a")
    # Level 1 and 2 of one place see the same things: each band is most like itself.
    names = ["blue", "green", "red", "nir08", "swir16", "swir22"]
    one, two = (rasters.read_pixels(record, names).reshape(6, -1) for record in (tile, other))
    likeness = np.corrcoef(one, two)[:6, 6:]
    assert (likeness.argmax(axis=0) == np.arange(6)).all()


def test_bigearthnet(shared_data, cut):
    tiles = cut(shared_data / "bigearthnet_s2", per_band=True, sensor="sentinel2-l2a")
    assert len(tiles) == 6
    for tile in tiles:
        check_record(tile)
        properties = tile["properties"]
        assert properties["bands"] == list(SENSORS["sentinel2-l2a"].order)
        assert (properties["window"], properties["offset"]) == ([0, 0, 120, 120], 0)
        (metadata,) = Path(properties["source"]["coastal"]).parent.glob("*_labels_metadata.json")
        taken = json.loads(metadata.read_text())["acquisition_date"].replace(" ", "T") + "Z"
        # one patch is named T94161, and no minute has a 61st second
        assert properties.get("datetime") == (None if "T94161" in tile["id"] else taken)
        with rasterio.open(properties["source"]["coastal"]) as raster:
            coarse = raster.read(1)
            assert coarse.shape == (20, 20)
        fine = rasters.read_pixels(tile, ["coastal"])[0]
        assert np.abs(fine.mean() - coarse.mean()) < 0.05 * coarse.std() + 1
        np.testing.assert_allclose(fine[2:-2:6, 2:-2:6] / 4, coarse / 4, atol=coarse.std())


def test_landsat_as_it_comes(shared_data, cut):
    folder = shared_data / "scenes" / "landsat8_per_band"
    tiles = cut(folder, per_band=True, sensor="landsat8", scale=1.0, offset=0.0, size=200)
    assert len(tiles) == 9
    assert tiles[0]["properties"]["bands"] == ["blue", "green", "red", "nir08", "swir16", "swir22"]
    with rasterio.open(folder / "l8_B5.tif") as raster:
        truth = raster.read(1).astype(float)
    truth[truth == 0] = np.nan
    for tile in tiles:
        column, row, _, _ = tile["properties"]["window"]
        nir = rasters.read_pixels(tile, ["nir08"])[0]
        np.testing.assert_array_equal(nir, truth[row : row + 200, column : column + 200])
    path = shared_data / "scenes" / "LE70220491999322EDC01_stack.gtif"
    names = ["blue", "green", "red", "nir08", "swir16", "swir22", "-", "-"]
    (tile,) = cut(path, bands=names)
    assert tile["id"] == "LE70220491999322EDC01_stack"
    with rasterio.open(path) as raster:
        masked = raster.read([1, 2, 3, 4, 5, 6], masked=True)
    np.testing.assert_array_equal(rasters.read_pixels(tile, names[:6]), masked.astype(float).filled(np.nan))
    assert tile["properties"].get("valid", 1) == pytest.approx(1 - masked.mask.any(axis=0).mean(), abs=1e-6)
    with pytest.raises(BandError, match="has 8 bands, and a file of landsat7 has 6; pass --bands"):
        cut(path, sensor="landsat7", scale=1.0, offset=0.0)


BANDS = {1: "red", 3: "red,green,blue", 4: "blue,green,red,nir"}


def test_awkward_rasters_give_a_record_or_a_reason(shared_data, tmp_path, rsr):
    known = {"all-nodata": 4, "alpha": 3, "RGBA.uint16": 3, "RGB.byte": 3, "RGB.byte.gcp": 3, "RGB.byte.rpc": 3}
    known |= {"corrupt": 3, "goes": 3, "green": 3, "red": 3}
    paths = sorted(path for path in (shared_data / "awkward").iterdir() if path.suffix != ".ovr")
    found, said = {}, []
    for count, names in BANDS.items():
        chosen = [path for path in paths if known.get(path.stem, 1) == count]
        chips = [] if count == 3 else ["--chips", tmp_path]
        done = rsr("tile", "--whole", "--keep-going", "--bands", names, *chips, *chosen)
        assert done.returncode == 3
        found |= {record["id"]: record for record in records(done)}
        said += [line.removeprefix("rsr tile: ") for line in messages(done)]
    refused = {line.split(": ")[0] for line in said if line.endswith("; skipped")}
    assert {Path(path).name for path in refused} == {"all-nodata.tif", "corrupt.tif", "RGB.nc", "two-subs.h5"}
    assert len(found) == len(paths) - len(refused)
    unplaced = {name for name, record in found.items() if record["geometry"] is None}
    assert unplaced == {"float", "float_nan", "rotated", "goes"}
    for path in paths:
        if "valid" in found.get(path.stem, {"properties": {}})["properties"]:
            with rasterio.open(path) as raster:
                used = [i for i, kind in enumerate(raster.colorinterp, 1) if kind != ColorInterp.alpha]
                valid = (raster.read_masks(used) > 0) & np.isfinite(raster.read(used))
            assert found[path.stem]["properties"]["valid"] == pytest.approx(valid.all(axis=0).mean(), abs=1e-6)
    assert found["world.byte"]["bbox"] == [-180, -75, 180, 75]
    for name, record in found.items():
        with rasterio.open(record["properties"]["source"]) as chip:
            assert (chip.height, chip.width) == tuple(record["properties"]["proj:shape"]), name


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path, write_raster):
    """Give inputs that cannot be used, with what is said of each, and one that can."""
    big = np.random.default_rng(0).integers(0, 9999, (1, 200, 200)).astype("uint16")
    whole = Path(write_raster(tmp_path / "whole.tif", big, nodata=0)).read_bytes()
    (tmp_path / "truncated.tif").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty.tif").write_text("")
    (tmp_path / "secret.tif").symlink_to("nowhere.tif")
    (tmp_path / "empty").mkdir()
    write_raster(tmp_path / "blank.tif", ONES * 0, nodata=0)
    write_raster(tmp_path / "nan.tif", np.full((1, 8, 8), np.nan, "float32"))
    write_raster(tmp_path / "complex.tif", np.ones((1, 8, 8), "complex64"))
    write_raster(tmp_path / "two.tif", np.ones((2, 8, 8), "uint16"))
    expected = {
        "truncated.tif": "cannot be read: ",
        "text.tif": "cannot be read: ",
        "empty.tif": "cannot be read: ",
        "none.tif": "no such file",
        "secret.tif": "no such file",
        "empty": "holds no raster (.tif ",
        "blank.tif": "not one of its 1 tiles has enough valid pixels; see --min-valid",
        "nan.tif": "not one of its 1 tiles has enough valid pixels",
        "complex.tif": "holds complex numbers, which have no reflectance",
        "two.tif": "has 2 bands, not counting alpha, and --bands names 1; name each, with - for one not used",
        "/vsizip/none.zip/x.tif": "cannot be read: ",
    }
    return {
        name if name[0] == "/" else str(tmp_path / name): text for name, text in expected.items()
    }, tmp_path / "whole.tif"


def test_bad_inputs_are_told_and_skipped(bad, rsr):
    expected, good = bad
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", *expected, good)
    assert done.returncode == 3
    assert [record["id"] for record in records(done)] == ["whole"]
    said = messages(done)
    assert said[-2:] == [
        "rsr tile: 2 tiles without enough valid pixels left out; see --min-valid",
        f"rsr tile: {len(expected)} skipped",
    ]
    assert sum("taken as reflectance" in line for line in said) == 1  # nan.tif
    told = [line for line in said if line.endswith("; skipped")]
    for line, (path, text) in zip(told, expected.items(), strict=True):
        assert line.startswith(f"rsr tile: {path}: {text}")


@pytest.mark.parametrize("name", ["none.tif", "truncated.tif", "empty"])
def test_the_first_bad_input_ends_the_run(bad, tmp_path, rsr, name):
    expected, good = bad
    path = str(tmp_path / name)
    done = rsr("tile", "--whole", "--bands", "red", good, path, good, "-o", tmp_path / "out.geojsonl")
    (line,) = messages(done)
    assert done.returncode == 1
    assert line.startswith(f"rsr tile: {path}: {expected[path]}")
    assert not list(tmp_path.glob("*out.geojsonl*"))


def test_bad_directories_of_single_band_files(tmp_path, write_raster, rsr):
    made = {
        "other": ("photo.tif", "B99.tif", "xB2.tif"),
        "twice": ("a_B2.tif", "b_B2.TIF"),
        "padded": ("B2.tif", "B02.tif"),
        "some": ("x_B2.tif",),
        "good": ("x_B4.tif", "x_B5.tif"),
    }
    for folder, files in made.items():
        for file in files:
            write_raster(tmp_path / folder / file, ONES)
    write_raster(tmp_path / "moved" / "B4.tif", ONES)
    write_raster(tmp_path / "moved" / "B5.tif", ONES, transform=Affine(10, 0, 0, 0, -10, 0))
    write_raster(tmp_path / "zone" / "B4.tif", ONES)
    write_raster(tmp_path / "zone" / "B5.tif", ONES, crs="EPSG:32634")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "B4.tif").write_text("")
    write_raster(tmp_path / "broken" / "B5.tif", ONES)
    expected = {
        "other": "other: holds no single-band files named as landsat8's are",
        "twice": "twice: blue is in two files, ",
        "padded": "padded: blue is in two files, ",
        "some": "some: band red, nir08 is missing (has blue)",
        "moved": "moved/B5.tif: nir08 has another coordinate system, or covers another area, than the finest band",
        "zone": "zone/B5.tif: nir08 has another coordinate system, or covers another area, than the finest band",
        "broken": "broken/B4.tif: cannot be read: ",
        "good/x_B4.tif": "good/x_B4.tif: is not a directory; --per-band takes directories",
    }
    command = ["tile", "--whole", "--per-band", "--sensor", "landsat8", "--bands", "red,nir08", "--keep-going"]
    done = rsr(*command, *expected, "good", cwd=tmp_path)
    assert done.returncode == 3
    (record,) = records(done)
    assert (record["id"], record["properties"]["bands"]) == ("good", ["red", "nir08"])
    said = messages(done)
    assert said.pop() == f"rsr tile: {len(expected)} skipped"
    for line, text in zip(said, expected.values(), strict=True):
        assert line.startswith(f"rsr tile: {text}")


def test_a_single_band_of_a_product_is_not_taken_for_all(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / f"{LC08}SR_B5.TIF", ONES)
    with pytest.raises(
        BandError, match="holds one band of landsat8; pass --per-band with the directory of all of them"
    ):
        cut(path, sensor="landsat8")


def test_a_name_that_json_cannot_hold(tmp_path, write_raster, rsr):
    write_raster(tmp_path / "good.tif", ONES)
    shutil.copy(tmp_path / "good.tif", os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe9.tif"))
    done = rsr("tile", "--whole", "--bands", "red", "--keep-going", tmp_path)
    assert done.returncode == 3
    assert [record["id"] for record in records(done)] == ["good"]
    assert "has a name that is not UTF-8, which JSON cannot hold; rename it; skipped" in messages(done)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no raster is named; name files or directories, or pass --files-from"),
        (["--bands", "red,nope", "x.tif"], "'nope' is not a STAC common name of a band; one of pan coastal blue "),
        (["--bands", "red,red", "x.tif"], "red named twice"),
        (["--bands", "-,-", "x.tif"], "no band is named"),
        (["--bands", "red,,nir", "x.tif"], "Invalid value for '--bands': 'red,,nir' has an empty item"),
        (["--per-band", "."], "--per-band needs --sensor, which says how its single-band files are named"),
        (["--datetime", "yesterday", "x.tif"], "'yesterday' is not a date or time such as 2023-06-10"),
        (["--scale", "nan", "x.tif"], "--scale is not a finite number"),
        (["--min-valid", "1.5", "x.tif"], "Invalid value for '--min-valid': 1.5 is not in the range 0<=x<=1"),
        (["--sensor", "sentinel", "x.tif"], "Invalid value for '--sensor': 'sentinel' is not one of 'eurosat', "),
    ],
)
def test_wrong_usage(tmp_path, write_raster, rsr, arguments, message):
    write_raster(tmp_path / "x.tif", ONES)
    done = rsr("tile", "--whole", *arguments, cwd=tmp_path)
    (line,) = messages(done)
    assert (done.returncode, done.stdout) == (2, b"")
    assert line.startswith(f"rsr tile: {message}")


def test_per_band_without_a_sensor_is_wrong_usage_in_the_library_too(tmp_path, cut):
    with pytest.raises(UsageError, match="--per-band needs --sensor"):
        cut(tmp_path, per_band=True)

"""Files that are hard to open, and arrays."""

import itertools
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, TiffImagePlugin, TiffTags
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from support_rasters import ONES, RNG, SIX, bands_of, grid, repeat, window_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, RasterError
from rsr_cli.core.rasters.opening import is_all_valid, open_raster


def test_a_sensors_nodata_that_its_numbers_cannot_hold(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", np.zeros((8, 6, 6), "uint16"))
    (tile,) = cut(path, sensor="hls-l30")  # -9999
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red", "nir08"]), 0)


@pytest.mark.parametrize("name", ["a?b=c.tif", "a&b.tif", 'a "b".tif', "<a>.tif", "a%20b.tif", "ä#.tif", "a:b.tif"])
def test_odd_file_names_with_a_sensors_nodata(tmp_path, write_raster, cut, name):
    pixels = bands_of(6, 6, 6)
    pixels[:, 2, 3] = 0
    (tile,) = cut(write_raster(tmp_path / name, pixels), sensor="landsat7", scale=1.0, offset=0.0)
    assert tile["id"] == name.removesuffix(".tif")
    assert tile["properties"]["source"] == str(tmp_path / name)
    np.testing.assert_array_equal(rasters.read_pixels(tile, SIX), np.where(pixels, pixels, np.nan))


@pytest.mark.parametrize(
    "array",
    [
        *(np.zeros((4, 4, 2, 2), np.uint8), np.array(["x"]), np.array([None]), np.zeros((4, 4, 3), complex)),
        *(np.zeros((0, 5)), np.zeros((5, 0)), np.zeros((4, 5, 0), np.uint16)),
    ],
)
def test_arrays_that_are_not_images(tmp_path, cut, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(RasterError, match=r"x\.npy: (is not an array|cannot be read|has complex)"):
        cut(tmp_path / "x.npy", bands=["red"])


def test_an_archive_of_arrays_is_not_an_image(tmp_path, cut):
    np.savez(tmp_path / "x.npz", a=np.zeros((4, 4)), b=np.zeros((4, 4)))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(RasterError, match=r"x\.npy: is not an array"):
        cut(tmp_path / "x.npy", bands=["red"])


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_numbers_are_refused(tmp_path, cut, dtype):
    """Radar's single-look complex images are of 16-bit integers, for which numpy has no type."""
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", driver="GTiff", width=8, height=8, count=2, dtype=dtype):
        pass
    with pytest.raises(RasterError, match=r"x\.tif: has complex numbers, which are not reflectance$"):
        cut(path, bands=["-", "red"])


def write_with_keys(path, keys, doubles):
    """Write a GeoTIFF with GeoKeys as they are, which GDAL would not write."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, value in (
        (33550, TiffTags.DOUBLE, (1.0, 1.0, 0.0)),
        (33922, TiffTags.DOUBLE, (0.0, 0.0, 0.0, 130.0, 32.0, 0.0)),
        (34735, TiffTags.SHORT, (1, 1, 0, len(keys), *itertools.chain(*keys))),
        (34736, TiffTags.DOUBLE, doubles),
    ):
        tags.tagtype[tag], tags[tag] = kind, value
    Image.fromarray(ONES[0]).save(path, tiffinfo=tags)


def test_a_map_projection_that_proj_does_not_have_leaves_the_pixels_readable(tmp_path, cut):
    """A Mercator projection with a latitude of origin; rasterio raises its error at the next question."""
    names = {1024: 1, 1025: 1, 3072: 32767, 3074: 32767, 3075: 7, 2050: 6267, 2056: 7008, 3076: 9001}
    numbers = {3080: -90.0, 3081: 30.0, 3082: 0.001, 3083: 0.002, 3092: 0.83}
    keys = [(key, 0, 1, value) for key, value in names.items()]
    keys += [(key, 34736, 1, place) for place, key in enumerate(numbers)]
    write_with_keys(tmp_path / "x.tif", sorted(keys), tuple(numbers.values()))
    (tile,) = cut(tmp_path / "x.tif", bands=["red"])
    assert tile["geometry"] is None
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["red"]), ONES)


def test_only_rsr_writes_to_stderr(tmp_path, write_raster, rsr):
    """PROJ would write that it finds no table of units, which rasterio hides; GDAL, that it finds no table at all."""
    keys = [(1024, 0, 1, 2), (1025, 0, 1, 1), (2048, 0, 1, 32767), (2050, 0, 1, 6742), (2052, 0, 1, 9001)]
    write_with_keys(tmp_path / "mil.tif", [*keys, (2054, 0, 1, 9114)], (0.0,))
    done = rsr("tile", "--whole", "--bands", "red", tmp_path / "mil.tif")
    assert done.stderr == b""
    west, south, east, north = json.loads(done.stdout)["bbox"]
    mil = 360 / 6400
    assert [west, south, east, north] == pytest.approx([130 * mil, 24 * mil, 138 * mil, 32 * mil])

    path = write_raster(tmp_path / "utm.tif", ONES, names=["red"])
    done = rsr("tile", "--whole", path, env={"PROJ_DATA": str(tmp_path)})
    assert done.returncode == 1
    assert re.fullmatch(rb"rsr tile: PROJ cannot read its tables: .*; unset PROJ_DATA [^\n]*\n", done.stderr)


def test_a_raster_without_a_place_has_no_transform(tmp_path, cut):
    """GDAL's driver of PGM files leaves the transform unset; one without an area cannot be inverted."""
    Image.fromarray(ONES[0]).save(tmp_path / "x.pgm")
    write_flat(tmp_path / "x.vrt")
    for name in ("x.pgm", "x.vrt"):
        (tile,) = cut(tmp_path / name, bands=["red"])
        assert tile["geometry"] is None
        assert "proj:transform" not in tile["properties"]
        np.testing.assert_array_equal(rasters.read_pixels(tile, ["red"]), ONES)


def write_flat(path):
    """Write a virtual raster whose pixels have no height."""
    band = (
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename relativeToVRT="1">x.pgm'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    )
    place = "<SRS>EPSG:32633</SRS><GeoTransform>500000, 10, 0, 5000000, 0, 0</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{place}{band}</VRTDataset>')


@pytest.mark.parametrize("dtype", ["uint8", "int8", "<u2", ">u2", "<i2", ">i4", "uint32", "<f4", ">f4", ">f8", "<i8"])
@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 1), (7, 9, 4)])
def test_an_array_is_read_as_numpy_reads_it(tmp_path, dtype, shape):
    array = (RNG.random(shape) * 100).astype(dtype)
    path = tmp_path / 'a <b> & "c".npy'
    np.save(path, array)
    expected = np.moveaxis(array.reshape(7, 9, -1), -1, 0)
    with open_raster(str(path)) as raster:
        assert raster.dtypes[0] == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(raster.read(), expected)
        assert is_all_valid(raster)
    nodata = int(expected[0, 3, 4])
    with open_raster(str(path), nodata) as raster:
        np.testing.assert_array_equal(raster.read_masks() == 0, expected == nodata)


def test_an_array_with_a_sensors_nodata_is_cut_and_read(tmp_path, cut):
    array = np.moveaxis(bands_of(6, 20, 30), 0, -1)
    array[:3] = 0
    np.save(tmp_path / "x.npy", array)
    (tile,) = cut(tmp_path / "x.npy", sensor="landsat7", scale=1.0, offset=0.0)
    assert tile["properties"]["valid"] == 17 / 20
    expected = np.moveaxis(np.where(array, array, np.nan), -1, 0)
    np.testing.assert_array_equal(rasters.read_pixels(tile, SIX), expected)


def test_an_array_that_is_stored_column_by_column_or_cut_short(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.asfortranarray(np.zeros((7, 9, 3))))
    with pytest.raises(RasterError, match=r"stored column by column; save it again"):
        open_raster(str(path))
    np.save(path, np.zeros((7, 9, 3)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RasterError, match="is not an array"):
        open_raster(str(path))


def test_arrays_are_not_kept_in_memory(tmp_path):
    """Read a pixel of each of 40 arrays of 8 MB, all of which stay open."""
    np.save(tmp_path / "0.npy", np.ones((1000, 1000, 4), np.uint16))
    for i in range(1, 40):
        (tmp_path / f"{i}.npy").hardlink_to(tmp_path / "0.npy")
    code = """
import resource, sys
from rsr_cli.core.rasters import read_pixels
place = {"window": [500, 500, 8, 8], "bands": ["blue", "green", "red", "nir"]}
peaks = []
for i in range(40):
    read_pixels({"properties": {"source": f"{i}.npy", **place}}, ["red"])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[-1] - peaks[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert int(done.stdout) < 20 * 1024  # KiB


@pytest.mark.parametrize("name", ["x.tif", "x.npy"])
def test_a_named_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(RasterError, match="is a named pipe"):
        open_raster(str(tmp_path / name))


@pytest.mark.parametrize("given", [{}, {"GDAL_HTTP_LOW_SPEED_TIME": "2"}])
def test_a_server_that_does_not_answer_is_given_up(silent_server, given):
    """With the environment's time limit; the default is another."""
    url, _ = silent_server
    code = """
import os, sys
from rsr_cli.core.reach import allowing
from rsr_cli.core.rasters.opening import open_raster
print(os.environ["GDAL_HTTP_LOW_SPEED_TIME"], flush=True)
if sys.argv[2:]:
    with allowing(True):
        open_raster(sys.argv[1])
"""
    command = [sys.executable, "-c", code, url, *given]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, timeout=60, check=False)
    assert int(done.stdout) == int(given.get("GDAL_HTTP_LOW_SPEED_TIME", 30))
    assert (b"too slow" in done.stderr) == bool(given)


NAMES = ["red", "green", "blue", "nir"]


@pytest.fixture
def aerial(write_raster):
    """Return a function that writes four bands of which the last is flagged as alpha, and 0 in half of it."""

    def write(path, dtype="uint8", names=None):
        pixels = bands_of(4, 40, 40).astype(dtype)
        pixels[3, :20] = 0
        path = write_raster(path, pixels, names=names)
        with rasterio.open(path, "r+") as raster:
            raster.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        return path, pixels.astype(float)

    return write


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("described", "settings"),
    [
        (NAMES, {}),
        (["B4", "B3", "B2", "B8"], {"sensor": "sentinel2-l2a", "scale": 2.0}),
        (None, {"bands": NAMES}),
        (None, {"bands": ["-", "green", "-", "nir"]}),
        (NAMES, {"bands": NAMES, "scale": 40.0}),
    ],
)
def test_a_name_beats_the_alpha_flag(tmp_path, cut, aerial, dtype, described, settings):
    path, pixels = aerial(tmp_path / "x.tif", dtype, described)
    truth = pixels[[1, 3]] * settings.get("scale", 1)
    if "sensor" in settings:
        truth[pixels[[1, 3]] == 0] = np.nan  # its nodata
    (tile,), (chip,) = cut(path, **settings), cut(path, chips=tmp_path / "chips", **settings)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["green", "nir"]), truth)
    if "sensor" not in settings:
        np.testing.assert_array_equal(rasters.read_pixels(chip, ["green", "nir"]), truth)
        assert tile["properties"].get("valid", 1) == 1


def test_a_file_whose_bands_the_sensor_orders_has_no_alpha(tmp_path, write_raster, cut):
    """One of many bands is flagged if the file was written as a photograph."""
    pixels = bands_of(6, 8, 8)
    path = write_raster(tmp_path / "x.tif", pixels)
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [*[ColorInterp.gray] * 3, ColorInterp.alpha, *[ColorInterp.undefined] * 2]
    (tile,) = cut(path, sensor="landsat7", scale=1.0, offset=0.0)
    assert tile["properties"]["bands"] == list(SIX)
    np.testing.assert_array_equal(rasters.read_pixels(tile, SIX), pixels)


@pytest.mark.parametrize("names", [["red", "green", "blue"], ["red", "green", "blue", "-"]])
def test_alpha_that_nothing_names_is_alpha(tmp_path, cut, aerial, caplog, names):
    path, _ = aerial(tmp_path / "x.tif", "uint16")
    (tile,) = cut(path, bands=names)
    assert (tile["properties"]["bands"], tile["properties"]["valid"]) == (names[:3], 0.5)
    assert np.isnan(rasters.read_pixels(tile, ["red"])[0, :20]).all()
    # but its numbers are not those of transparency
    assert caplog.messages == [
        "x has other numbers than 0 and 65535 in band 4, which is flagged as alpha; taking it as alpha"
    ]


def test_alpha_with_transparent_and_feathered_edges_is_believed(tmp_path, write_raster, cut, caplog):
    pixels = bands_of(4, 40, 40).astype("uint8")
    pixels[3] = 255
    pixels[3, 10], pixels[3, :10] = 100, 0
    cut(write_raster(tmp_path / "x.tif", pixels, photometric="rgb", alpha="yes"), sensor="rgb")
    assert caplog.messages == []


@pytest.mark.parametrize(
    "declares",
    [
        "nothing",
        "nodata",
        "the same",
        "mask",
        "nodata and mask",
        "the same and mask",
        "alpha",
        "a virtual raster's nodata",
    ],
)
def test_nodata_of_the_user_s_is_invalid_besides_what_the_file_declares(tmp_path, write_raster, cut, declares):
    pixels = bands_of(3, 30, 40)
    pixels[:, :6, :9] = 7  # the user's, in all bands
    pixels[1, 20:22] = 7  # and in one
    pixels[:, 10:13] = 9
    mask = np.ones((30, 40), bool)
    mask[:, 35:] = False
    path, expected = tmp_path / "x.tif", pixels == 7
    if declares == "alpha":
        alpha = np.where(mask, 65535, 0)[None]
        rgba = np.concatenate([pixels, alpha]).astype("uint16")
        write_raster(path, rgba, photometric="rgb", alpha="yes")
    else:
        nodata = {"nodata": 9, "the same": 7}.get(declares.removesuffix(" and mask"))
        write_raster(path, pixels, nodata=nodata, mask=mask if "mask" in declares else None)
    if "mask" in declares or declares == "alpha":
        expected |= ~mask
    if "nodata" in declares and "mask" not in declares:  # GDAL lets a mask hide it
        expected |= pixels == 9
    if declares.startswith("a virtual"):
        with rasterio.open(path) as raster:
            rasterio.shutil.copy(raster, tmp_path / "x.vrt", driver="VRT")
        path = tmp_path / "x.vrt"
        xml = re.sub(r"(<VRTRasterBand[^>]*>)", r"\1<NoDataValue>9</NoDataValue>", path.read_text())
        path.write_text(xml)
    settings = {"bands": ["red", "green", "blue"], "nodata": 7.0, "min_valid": 0.01}
    tiles = cut(path, size=10, **settings)
    chips = cut(path, size=10, chips=tmp_path / "chips", **settings)
    assert len(tiles) == 12
    for tile, chip in zip(tiles, chips, strict=True):
        here = window_of(tile)
        truth = np.where(expected, np.nan, pixels)[here]
        np.testing.assert_array_equal(rasters.read_pixels(tile, settings["bands"]), truth)
        np.testing.assert_array_equal(rasters.read_pixels(chip, settings["bands"]), truth)
        assert tile["properties"]["valid"] == pytest.approx(np.isfinite(truth).all(axis=0).mean(), abs=1e-6)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_mask_hides_the_nodata_that_a_file_declares(tmp_path, write_raster, cut, dtype, beside):
    """As for GDAL: black pixels of an image with a mask are data, in windows and in chips."""
    pixels = (bands_of(3, 20, 30) % 250).astype(dtype)
    pixels[:, :4], pixels[1, 9] = 0, 0
    mask = np.ones((20, 30), bool)
    mask[15:] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not beside):
        path = write_raster(tmp_path / "x.tif", pixels, nodata=0, mask=mask)
    with rasterio.open(path) as raster:
        expected = raster.read(masked=True).astype(float).filled(np.nan)
    assert np.isfinite(expected[:, :15]).all()
    settings = {"bands": ["red", "green", "blue"], "size": 10, "min_valid": 0.1}
    tiles, chips = cut(path, **settings), cut(path, chips=tmp_path / "chips", **settings)
    assert len(tiles) == len(chips) == 6
    for tile, chip in zip(tiles, chips, strict=True):
        left, top, width, height = tile["properties"]["window"]
        found = rasters.read_pixels(tile, settings["bands"])
        np.testing.assert_array_equal(found, expected[:, top : top + height, left : left + width])
        np.testing.assert_array_equal(rasters.read_pixels(chip, settings["bands"]), found)


def virtual(path, bands):
    """Write a virtual raster of 8 x 8 pixels; bands are file, its data type as GDAL has it, and further elements."""
    elements = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{number}">{more}<SimpleSource><SourceFilename>{file}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for number, (file, dtype, more) in enumerate(bands, 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{elements}</VRTDataset>')
    return path


def test_a_sensors_nodata_counts_where_one_band_declares_none(tmp_path, write_raster, cut):
    pixels = bands_of(3, 8, 8)
    pixels[:, 1, 2], pixels[1, 4, 5] = 0, 7
    files = [write_raster(tmp_path / f"{i}.tif", band) for i, band in enumerate(pixels)]
    stack = [(files[0], "UInt16", ""), (files[1], "UInt16", "<NoDataValue>7</NoDataValue>"), (files[2], "UInt16", "")]
    names = ["red", "green", "-"]
    settings = {"bands": names, "sensor": "sentinel2-l2a", "scale": 1.0, "offset": 0.0}
    (tile,) = cut(virtual(tmp_path / "x.vrt", stack), **settings)
    expected = np.where((pixels == 0) | (pixels == 7), np.nan, pixels)[:2]
    np.testing.assert_array_equal(rasters.read_pixels(tile, names[:2]), expected)
    # a band that is not used does not ask for it
    (tile,) = cut(tmp_path / "x.vrt", **settings | {"bands": ["-", "green", "-"]})
    assert np.argwhere(np.isnan(rasters.read_pixels(tile, ["green"]))).tolist() == [[0, 4, 5]]


def test_bands_of_several_data_types(tmp_path, write_raster, cut):
    """Each is read as it is; nodata must be possible in those that are used."""
    pixels = np.stack([np.full((8, 8), 1000.0), np.full((8, 8), 0.25), np.full((8, 8), 200.0)])
    pixels[:, 3, 0] = 65535, 0.5, 9
    kinds = ("uint16", "float32", "uint8")
    files = [write_raster(tmp_path / f"{k}.tif", band.astype(k)) for k, band in zip(kinds, pixels, strict=True)]
    path = virtual(tmp_path / "x.vrt", zip(files, ("UInt16", "Float32", "Byte"), ("", "", ""), strict=True))
    names = ["red", "green", "blue"]
    for chips in (None, tmp_path / "chips"):
        (tile,) = cut(path, bands=names, scale=2.0, chips=chips)
        order = ["blue", "red", "green"]
        np.testing.assert_array_equal(rasters.read_pixels(tile, order), pixels[[2, 0, 1]] * 2)
    (tile,) = cut(path, bands=["red", "green", "-"], nodata=65535.0, min_valid=0.1)
    assert np.isnan(rasters.read_pixels(tile, ["red", "green"]))[:, 3, 0].tolist() == [True, False]
    with pytest.raises(BandError, match="has uint8 numbers, none of which is 65535"):
        cut(path, bands=names, nodata=65535.0)


def test_the_only_band_of_a_file_is_no_alpha(tmp_path, write_raster, cut):
    """As when the fourth band of an aerial image was taken out of it."""
    pixels = bands_of(1, 8, 8)
    pixels[0, :3] = 0
    file = write_raster(tmp_path / "source", pixels)
    virtual(tmp_path / "B08.vrt", [(file, "UInt16", "<ColorInterp>Alpha</ColorInterp>")])
    (tile,) = cut(tmp_path, per_band=True, sensor="eurosat")
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["nir"]), pixels)


def test_nodata_of_the_user_s_does_not_bleed_into_a_coarse_band(tmp_path, write_raster, cut):
    write_raster(tmp_path / "in" / "x_B4.tif", np.full((40, 40), 500, "uint16"), transform=grid(10))
    coarse = np.full((20, 20), 1000, "uint16")
    coarse[:5], coarse[:, :3] = 60000, 40000
    write_raster(tmp_path / "in" / "x_B3.tif", coarse, transform=grid(20), nodata=40000)
    settings = {"per_band": True, "sensor": "sentinel2-l2a", "nodata": 60000.0, "scale": 1.0, "offset": 0.0}
    (tile,) = cut(tmp_path / "in", **settings)
    expected = np.where(np.isin(repeat(coarse, 2), (40000, 60000)), np.nan, 1000)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ["green"])[0], expected)


@pytest.mark.parametrize(
    ("dtype", "nodata", "taken"),
    [
        ("uint8", 300.0, False),
        ("uint8", -1.0, False),
        ("uint8", 255.0, True),
        ("int16", -9999.0, True),
        ("int16", 0.5, False),
        ("float32", 0.5, True),
        ("float32", -3.4028234663852886e38, True),
    ],
)
def test_nodata_that_a_file_can_or_cannot_contain(tmp_path, write_raster, cut, dtype, nodata, taken):
    pixels = np.ones((1, 8, 8), dtype)
    if taken:
        pixels[0, :2] = nodata
    path = write_raster(tmp_path / "x.tif", pixels)
    if taken:
        (tile,) = cut(path, bands=["red"], nodata=nodata)
        np.testing.assert_array_equal(
            np.isnan(rasters.read_pixels(tile, ["red"])[0]), pixels[0] == pixels.dtype.type(nodata)
        )
        assert tile["properties"]["nodata"] == nodata
        return
    with pytest.raises(BandError, match=rf"has {dtype} numbers, none of which is {re.escape(f'{nodata:g}')}"):
        cut(path, bands=["red"], nodata=nodata)


def test_a_tag_that_gdal_finds_broken_leaves_the_pixels_readable(tmp_path, cut, capfd):
    """GDAL looks into the EXIF of a JPEG when it looks for a mask; rasterio raises the error at its next question."""
    path = tmp_path / "x.jpg"
    with rasterio.open(path, "w", "JPEG", width=16, height=16, count=3, dtype="uint8") as raster:
        raster.write(np.full((3, 16, 16), 90, "uint8"))
    whole = path.read_bytes()
    exif = b"Exif\0\0" + b"\xff" * 4 + bytes(20)  # where the byte order of a TIFF belongs
    path.write_bytes(whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:])
    capfd.readouterr()
    with rasterio.open(path) as raster:
        assert raster.mask_flag_enums
        with pytest.raises(CPLE_BaseError, match="Not a TIFF file"):
            _ = raster.colorinterp
    (tile,) = cut(path, sensor="rgb")
    np.testing.assert_allclose(rasters.read_pixels(tile, ["red"]), 90 * 10000 / 255, rtol=0.02)
    (tile,) = cut(path, bands=["red", "-", "-"], nodata=0.0, scale=1.0)
    np.testing.assert_allclose(rasters.read_pixels(tile, ["red"]), 90, rtol=0.02)


def test_a_header_that_is_cut_short_is_not_taken_for_one_without_a_place(tmp_path, write_raster, cut):
    """GDAL only warns of what it cannot read at the end, such as where the pixels are."""
    path = tmp_path / "x.tif"
    whole = Path(write_raster(path, np.ones((6, 64, 64), np.uint16), names=SIX)).read_bytes()
    assert cut(path)[0]["geometry"]
    for missing in range(1, len(whole) - 6 * 64 * 64 * 2, 16):
        path.write_bytes(whole[:-missing])
        with pytest.raises(RasterError, match="cannot be read"):
            cut(path)

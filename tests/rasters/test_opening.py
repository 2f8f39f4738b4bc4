"""Files that are hard to open, and arrays."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support_rasters import RNG, SIX, bands_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import RasterError
from rsr_cli.core.rasters.opening import is_all_valid, is_virtual, open_raster


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
    "array", [np.zeros((4, 4, 2, 2), np.uint8), np.array(["x"]), np.array([None]), np.zeros((4, 4, 3), complex)]
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
        assert not is_virtual(raster)
    nodata = int(expected[0, 3, 4])
    with open_raster(str(path), nodata) as raster:
        assert is_virtual(raster)
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
from rsr_cli.core.rasters.opening import open_raster
print(os.environ["GDAL_HTTP_LOW_SPEED_TIME"], flush=True)
if sys.argv[2:]:
    open_raster(sys.argv[1])
"""
    command = [sys.executable, "-c", code, url, *given]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, timeout=60, check=False)
    assert int(done.stdout) == int(given.get("GDAL_HTTP_LOW_SPEED_TIME", 30))
    assert (b"too slow" in done.stderr) == bool(given)

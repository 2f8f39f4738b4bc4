"""Masks beside a scene's bands, against numpy."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from support_rasters import LC08, bands_of, grid, repeat, safe, same_pixels

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError, RasterError, RecordError
from rsr_cli.core.rasters import MaskSettings
from rsr_cli.core.sensors import SENSORS
from rsr_cli.core.sensors.quality import Marks

RGB = ("red", "green", "blue")
HLS = "T33UUP.2023161T101031.v2.0."


def clouds(sensor):
    quality = SENSORS[sensor].quality
    return MaskSettings(quality.masked, band=quality.band, quality=quality)


def is_invalid(tile, bands=RGB):
    return np.isnan(rasters.read_pixels(tile, bands))


@pytest.mark.parametrize("flags", ["values", "bits", "both"])
@pytest.mark.parametrize("named", ["by the user", "by the file", "by the file, flagged as alpha"])
def test_a_band_of_the_file(tmp_path, write_raster, cut, flags, named):
    pixels = np.concatenate([bands_of(3, 40, 50), np.random.default_rng(0).integers(0, 12, (1, 40, 50))])
    names = ("red", "green", "blue", "scl")
    path = write_raster(tmp_path / "x.tif", pixels.astype("uint16"), names=names if "file" in named else None)
    if "alpha" in named:
        with rasterio.open(path, "r+") as raster:
            raster.colorinterp = [*raster.colorinterp[:3], ColorInterp.alpha]
    marks = {"values": Marks((3, 8, 9)), "bits": Marks(bits=(1, 3)), "both": Marks((4,), (3,))}[flags]
    numbers = pixels[3]
    expected = {
        "values": np.isin(numbers, (3, 8, 9)),
        "bits": numbers & 0b1010 != 0,
        "both": (numbers == 4) | (numbers >= 8),
    }[flags]
    settings = {"bands": names} if named == "by the user" else {}
    tiles = cut(path, size=10, mask=MaskSettings(marks, band="SCL"), min_valid=0.01, **settings)
    assert len(tiles) == 20
    for tile in tiles:
        properties = tile["properties"]
        column, row, *_ = properties["window"]
        here = expected[row : row + 10, column : column + 10]
        for band in is_invalid(tile):
            np.testing.assert_array_equal(band, here)
        assert properties["valid"] == round(1 - here.mean(), 6)
        assert properties["bands"] == ["red", "green", "blue", "-"]
        assert properties["mask"] == {"source": f"vrt://{path}?bands=4", **marks.as_property()}
        assert "eo:cloud_cover" not in properties


def test_sentinel_2_s_classification(tmp_path, write_raster, cut):
    """On a grid of 20 m beside bands of 10 m; each number of a class is that of the pixel it lies in."""
    name, pixels = safe(tmp_path, write_raster, "N0301")
    (scl,) = (path for path in pixels if "SCL" in path)
    classes = np.random.default_rng(3).integers(0, 12, (1, 36, 36)).astype("uint8")
    (granule,) = (tmp_path / name / "GRANULE").iterdir()
    (granule / scl).unlink()
    write_raster(granule / scl, classes, transform=grid(20))
    fine = repeat(classes[0], 2)
    tiles = cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a", size=24, mask=clouds("sentinel2-l2a"))
    assert len(tiles) == 9
    for tile in tiles:
        column, row, *_ = tile["properties"]["window"]
        here = fine[row : row + 24, column : column + 24]
        invalid = np.isin(here, (0, 3, 8, 9, 10))
        np.testing.assert_array_equal(is_invalid(tile, ["blue"])[0], invalid)
        assert tile["properties"]["valid"] == round(1 - invalid.mean(), 6)
        cover = 100 * np.isin(here, (8, 9, 10)).sum() / (here != 0).sum()
        assert tile["properties"]["eo:cloud_cover"] == pytest.approx(cover, abs=0.01)
        assert tile["properties"]["mask"]["values"] == [0, 3, 8, 9, 10]
        assert tile["properties"]["mask"]["source"] == str(granule / scl)


@pytest.mark.parametrize(
    ("sensor", "files", "mask", "numbers"),
    [
        ("landsat8", f"{LC08}SR_B{{}}.TIF", f"{LC08}QA_PIXEL.TIF", (21824, 22280, 23888)),
        (
            "hls-l30",
            "HLS.L30.T33UUP.2023161T101031.v2.0.B0{}.tif",
            "HLS.L30.T33UUP.2023161T101031.v2.0.Fmask.tif",
            (64, 66, 72),
        ),
        (
            "hls-s30",
            "HLS.S30.T33UUP.2023161T101031.v2.0.B0{}.tif",
            "HLS.S30.T33UUP.2023161T101031.v2.0.fmask.tif",
            (0, 2, 8),
        ),
    ],
)
def test_the_classifications_of_landsat_and_hls(tmp_path, write_raster, cut, sensor, files, mask, numbers):
    kind = "uint16" if sensor == "landsat8" else "int16"
    for band in (2, 3, 4):
        write_raster(tmp_path / "in" / files.format(band), np.full((1, 6, 9), 9000, kind), nodata=0)
    classes = np.repeat(np.array(numbers), 3)[None].repeat(6, 0)
    write_raster(tmp_path / "in" / mask, classes.astype("uint16" if sensor == "landsat8" else "uint8"))
    (tile,) = cut(tmp_path / "in", per_band=True, sensor=sensor, mask=clouds(sensor))
    np.testing.assert_array_equal(is_invalid(tile), np.isin(classes, numbers[1:])[None].repeat(3, 0))
    assert tile["properties"]["eo:cloud_cover"] == pytest.approx(100 / 3, abs=0.01)


def test_zero_in_a_mask_is_a_number_like_any_other(tmp_path, write_raster, cut):
    """A file of clear, 0, and cloudy, 1, may declare 0 as nodata, and a file's nodata is that of all its bands."""
    pixels = bands_of(3, 8, 8).astype("uint8")
    path = write_raster(tmp_path / "x.tif", np.maximum(pixels, 1), names=RGB, nodata=0)
    cloudy = np.zeros((8, 8), "uint8")
    cloudy[2:5] = 1
    write_raster(tmp_path / "x_clouds.tif", cloudy, nodata=0)
    (tile,) = cut(path, mask=MaskSettings(Marks((1,)), file="{stem}_clouds.tif"))
    np.testing.assert_array_equal(is_invalid(tile), (cloudy == 1)[None].repeat(3, 0))
    stack = write_raster(tmp_path / "y.tif", np.concatenate([np.maximum(pixels, 1), cloudy[None]]), nodata=0)
    (tile,) = cut(stack, bands=[*RGB, "qa"], mask=MaskSettings(Marks((1,)), band="qa"))
    np.testing.assert_array_equal(is_invalid(tile), (cloudy == 1)[None].repeat(3, 0))


def test_a_pattern_names_the_mask_of_each_scene(tmp_path, write_raster, cut):
    for stem, row in (("a", 1), ("b", 2), ("c[1]", 3)):
        write_raster(tmp_path / f"{stem}.tif", np.ones((3, 4, 4), "uint16"), names=RGB)
        mask = np.zeros((4, 4), "uint8")
        mask[row] = 9
        write_raster(tmp_path / "masks" / f"{stem}.cloud.tif", mask)
    tiles = cut(
        *(tmp_path / f"{stem}.tif" for stem in ("a", "b", "c[1]")),
        mask=MaskSettings(Marks((9,)), file="masks/{stem}.*.tif"),
    )
    assert [np.flatnonzero(is_invalid(tile)[0].all(axis=1)).tolist() for tile in tiles] == [[1], [2], [3]]


@pytest.mark.parametrize("metres", [5, 10, 20, 40])
def test_a_mask_on_another_grid_is_read_by_the_nearest_pixel(tmp_path, write_raster, cut, metres):
    path = write_raster(tmp_path / "x.tif", bands_of(3, 16, 16), names=RGB, transform=grid(10))
    numbers = np.random.default_rng(1).integers(0, 2, (160 // metres, 160 // metres)).astype("uint8")
    write_raster(tmp_path / "m.tif", numbers, transform=grid(metres))
    tiles = cut(path, size=8, mask=MaskSettings(Marks((1,)), file="m.tif"), min_valid=0.0)
    centres = ((np.arange(16) + 0.5) * 10 / metres).astype(int)
    if metres == 5:
        centres = np.arange(16) * 2 + 1  # GDAL takes the second of two pixels
    expected = numbers[np.ix_(centres, centres)] == 1
    for tile in tiles:
        column, row, *_ = tile["properties"]["window"]
        np.testing.assert_array_equal(is_invalid(tile)[0], expected[row : row + 8, column : column + 8])


def test_what_the_mask_does_not_cover_is_invalid(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", bands_of(3, 8, 8), names=RGB)
    write_raster(tmp_path / "m.tif", np.zeros((8, 8), "uint8"))
    (tile,) = cut(path, size=12, edge="pad", mask=MaskSettings(Marks((1,)), file="m.tif"))
    assert np.isfinite(rasters.read_pixels(tile, RGB)).sum() == 3 * 64


def test_chips_have_the_mask_in_their_pixels(tmp_path, write_raster, cut):
    pixels = np.concatenate([bands_of(3, 20, 20), np.random.default_rng(0).integers(0, 2, (1, 20, 20))])
    path = write_raster(tmp_path / "x.tif", pixels.astype("uint16"), names=(*RGB, "qa"))
    mask = MaskSettings(Marks((1,)), band="qa")
    plain = cut(path, size=10, mask=mask)
    chips = cut(path, size=10, mask=mask, chips=tmp_path / "chips")
    for tile, chip in zip(plain, chips, strict=True):
        assert "mask" not in chip["properties"]
        same_pixels(tile, chip, RGB)
        assert chip["properties"]["valid"] == tile["properties"]["valid"]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (MaskSettings(Marks((1,)), band="qa"), r"has no band qa to mask with \(has red, green, blue\)"),
        (MaskSettings(Marks((1,)), file="none_*.tif"), r"x\.tif: has no mask /.*/none_\*\.tif$"),
        (MaskSettings(Marks((1,)), file="{stem}_a[1].tif"), r"x\.tif: has no mask /.*/x_a\[1\]\.tif$"),
        (MaskSettings(Marks((1,)), file="m*.tif"), r"has 2 files, such as .*m1.tif and .*m2.tif, that m\*.tif names"),
        (MaskSettings(Marks((1,)), file="m1.tif"), "m1.tif: covers another area than the bands"),
        (MaskSettings(Marks(bits=(8,)), file="m2.tif"), "m2.tif: has uint8 numbers, which have no bit 8"),
        (MaskSettings(Marks((256, 300)), file="m2.tif"), "m2.tif: has uint8 numbers, none of which is 256"),
        (MaskSettings(Marks(bits=(0,)), file="float.tif"), "float.tif: has float32 numbers, which have no bit 0"),
        (MaskSettings(Marks((1,)), file="x.tif"), "x.tif: has 3 bands, where a mask has one"),
    ],
)
def test_a_mask_that_cannot_be_used(tmp_path, write_raster, cut, mask, says):
    path = write_raster(tmp_path / "x.tif", bands_of(3, 8, 8), names=RGB)
    write_raster(tmp_path / "m1.tif", np.zeros((8, 9), "uint8"))
    write_raster(tmp_path / "m2.tif", np.zeros((8, 8), "uint8"))
    write_raster(tmp_path / "float.tif", np.zeros((8, 8), "float32"))
    with pytest.raises(BandError, match=says):
        cut(path, mask=mask)


@pytest.mark.parametrize("described", [("B02", "B03", "SCL"), ("blue", "green", "SCL"), None])
def test_a_band_that_is_not_there_is_answered_with_one_name_of_each(tmp_path, write_raster, cut, described):
    path = write_raster(tmp_path / "x.tif", bands_of(3, 8, 8), names=described)
    bands = {} if described else {"bands": ("blue", "green", "scl")}
    with pytest.raises(BandError, match=r"has no band 8 to mask with \(has blue, green, scl\)$"):
        cut(path, sensor="sentinel2-l2a", offset=0.0, mask=MaskSettings(Marks((1,)), band="8"), **bands)


@pytest.mark.parametrize("former", ["BQA", "pixel_qa"])
def test_the_classification_of_an_earlier_collection_is_named(tmp_path, write_raster, cut, former):
    for band in ("B4", former):
        write_raster(tmp_path / f"LC08_L1TP_020039_20150804_20170226_01_T1_{band}.TIF", np.ones((8, 8), "uint16"))
    says = rf"has no file of band QA_PIXEL to mask with, but /.*_01_T1_{former}\.TIF of an earlier collection"
    with pytest.raises(BandError, match=says) as raised:
        cut(tmp_path, per_band=True, sensor="landsat8", scale=1.0, offset=0.0, mask=clouds("landsat8"))
    assert raised.value.remedy == "mask"


def test_a_product_without_its_classification(tmp_path, write_raster, cut):
    write_raster(tmp_path / f"{LC08}SR_B4.TIF", np.ones((8, 8), "uint16"))
    write_raster(tmp_path / f"{LC08.replace('020039', '020040')}QA_PIXEL.TIF", np.ones((8, 8), "uint16"))
    with pytest.raises(BandError, match="has no file of band QA_PIXEL to mask with"):
        cut(tmp_path, per_band=True, sensor="landsat8", mask=clouds("landsat8"))


@pytest.mark.parametrize(
    "mask",
    [
        None,
        [],
        "qa",
        {},
        {"source": "m.tif"},
        {"values": [1]},
        {"source": 1, "values": [1]},
        {"source": "m.tif", "values": "1"},
        {"source": "m.tif", "values": [1.5]},
        {"source": "m.tif", "bits": [-1]},
        {"source": "m.tif", "bits": [64]},
    ],
)
def test_a_record_whose_mask_is_malformed(tmp_path, write_raster, cut, mask):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(3, 8, 8), names=RGB))
    tile["properties"]["mask"] = mask
    with pytest.raises(RecordError, match="is not a tile"):
        rasters.read_pixels(tile, RGB)


def test_a_record_whose_mask_has_changed(tmp_path, write_raster, cut):
    (tile,) = cut(write_raster(tmp_path / "x.tif", bands_of(3, 8, 8), names=RGB))
    tile["properties"]["mask"] = {"source": write_raster(tmp_path / "m.tif", np.ones((8, 8), "float32")), "bits": [0]}
    with pytest.raises(RasterError, match="the mask has float32 numbers, which have no bits"):
        rasters.read_pixels(tile, RGB)
    tile["properties"]["mask"] = {"source": f"vrt://{tmp_path}/m.tif?bands=7", "values": [0]}
    with pytest.raises(RasterError, match="has 1 band, and no band 7"):
        rasters.read_pixels(tile, RGB)
    tile["properties"]["mask"] = {"source": str(tmp_path / "gone.tif"), "values": [0]}
    with pytest.raises(RasterError, match=r"gone\.tif: no such file"):
        rasters.read_pixels(tile, RGB)


def test_a_real_scene(shared_data, cut):
    """Landsat 8 with clouds, of before Collection 1: bits 14 and 15 of BQA are the confidence in cloud."""
    path = shared_data / "scenes" / "landsat8_per_band"
    settings = {"per_band": True, "sensor": "landsat8", "scale": 1.0, "offset": 0.0}
    tiles = cut(path, size=64, mask=MaskSettings(Marks(bits=(15,)), file="*_BQA.tif"), **settings, min_valid=0.0)
    with rasterio.open(path / "l8_BQA.tif") as flags, rasterio.open(path / "l8_B4.tif") as red:
        cloudy = flags.read(1) >= 1 << 15
        assert 0.1 < cloudy.mean() < 0.3
        expected = np.where(cloudy | (red.read(1) == 0), np.nan, red.read(1))
    for tile in tiles:
        column, row, *_ = tile["properties"]["window"]
        read = rasters.read_pixels(tile, ["red"])[0]
        np.testing.assert_array_equal(read, expected[row : row + 64, column : column + 64])

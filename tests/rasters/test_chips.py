"""Chips against the tiles they are written from."""

import numpy as np
import pytest
import rasterio
from support_rasters import L1C, L2A, RNG, bands_of, same_pixels, window_of

from rsr_cli.core import rasters
from rsr_cli.core.errors import OutputError


def test_chips_have_the_pixels_and_place_of_the_window(tmp_path, write_raster, cut):
    pixels = bands_of(4, 40, 60)
    path = write_raster(tmp_path / "scene.tif", pixels, names=["blue", "clouds", "red", "nir08"])
    tiles = cut(path, size=20, chips=str(tmp_path / "chips"), id_prefix="lake/")
    plain = cut(path, size=20)
    assert len(tiles) == len(plain) == 6
    for tile, original in zip(tiles, plain, strict=True):
        properties = tile["properties"]
        assert properties["source"] == f"{tmp_path}/chips/{tile['id']}.tif"
        assert tile["id"] == f"lake/{original['id']}"
        assert properties["window"] == [0, 0, 20, 20]
        assert properties["bands"] == ["blue", "red", "nir08"]
        assert (tile["geometry"], tile["bbox"]) == (original["geometry"], original["bbox"])
        with rasterio.open(properties["source"]) as chip:
            np.testing.assert_array_equal(chip.read(), pixels[[0, 2, 3]][window_of(original)])
            assert chip.descriptions == ("blue", "red", "nir08")
            assert (chip.crs.to_epsg(), chip.dtypes[0], chip.nodata) == (32633, "uint16", None)
            assert list(chip.transform)[:6] == original["properties"]["proj:transform"]
            assert rasterio.enums.ColorInterp.alpha not in chip.colorinterp
        (again,) = cut(properties["source"])
        assert properties["gsd"] == again["properties"]["gsd"] == original["properties"]["gsd"] == 10
        assert again["geometry"] == original["geometry"]
        same_pixels(again, original, ["blue", "red", "nir08"])
        same_pixels(tile, original, ["nir08", "blue"])
    assert sorted(file.name for file in (tmp_path / "chips" / "lake").iterdir()) == sorted(
        f"{tile['id']}.tif" for tile in plain
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_chips_of_any_number_of_bands_have_no_alpha(tmp_path, write_raster, cut, count, dtype):
    pixels = RNG.integers(0, 127, (count, 9, 9)).astype(dtype)
    path = write_raster(tmp_path / "x.tif", pixels, photometric="minisblack", names=L1C[:count])
    (tile,) = cut(path, chips=str(tmp_path / "chips"))
    (again,) = cut(tile["properties"]["source"])
    np.testing.assert_array_equal(rasters.read_pixels(again, L1C[:count]), pixels)


def test_chips_keep_what_is_invalid(holes, tmp_path, cut):
    path, invalid, settings = holes
    used = [i for i, name in enumerate(settings["bands"]) if name != "-"]
    names = [settings["bands"][i] for i in used]
    for tile in cut(path, size=13, chips=str(tmp_path / "chips"), **settings):
        column, row = map(int, tile["id"].split("_")[-2:])
        here = np.s_[..., row : row + 13, column : column + 13]
        np.testing.assert_array_equal(np.isnan(rasters.read_pixels(tile, names)), invalid[used][here])
        (again,) = cut(tile["properties"]["source"], min_valid=0.0)
        same_pixels(tile, again, names)
    assert not list((tmp_path / "chips").glob("*.msk"))


@pytest.mark.parametrize("value", [63, 255, 0])
def test_chips_of_padded_tiles_lose_no_value(tmp_path, write_raster, cut, value):
    # 63 is what numpy fills masked bytes with, unless told otherwise.
    path = write_raster(tmp_path / "x.tif", np.full((1, 12, 12), value, "uint8"), names=["red"])
    (tile,) = cut(path, size=16, edge="pad", chips=str(tmp_path / "chips"))
    read = rasters.read_pixels(tile, ["red"])[0]
    np.testing.assert_array_equal(read[:12, :12], value)
    assert np.isfinite(read).sum() == 144


def test_chips_of_bands_of_three_resolutions(mixed, tmp_path, cut):
    folder, pixels = mixed
    settings = {"per_band": True, "sensor": "sentinel2-l2a", "scale": 2.0, "offset": -1000.0}
    tiles = cut(folder, size=47, stride_px=43, edge="pad", chips=str(tmp_path), **settings)
    assert len(tiles) > 20
    for tile, original in zip(tiles, cut(folder, size=47, stride_px=43, edge="pad", **settings), strict=True):
        assert tile["id"] == original["id"]
        read = same_pixels(tile, original, L2A)
        (again,) = cut(tile["properties"]["source"])
        same_pixels(again, original, L2A)
        assert again["geometry"] == original["geometry"]
        rows, columns = np.nonzero(np.isfinite(read[0]))
        column, row, _, _ = original["properties"]["window"]
        truth = pixels["nir09"][row + rows.max(), column + columns.max()] * 2 - 1000
        assert read[L2A.index("nir09"), rows.max(), columns.max()] == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("sensor", ["landsat8", "sentinel2-l2a"])
def test_chips_of_single_band_files_that_declare_nothing(tmp_path, write_raster, cut, sensor):
    # 16959 is what numpy fills masked 16-bit numbers with, unless told otherwise.
    values = np.array([[16959, 300], [0, 16959]], "uint16")
    for band in ("B02", "B03"):
        write_raster(tmp_path / "in" / f"{band}.tif", values)
    (tile,) = cut(tmp_path / "in", per_band=True, sensor=sensor, chips=str(tmp_path / "out"))
    (original,) = cut(tmp_path / "in", per_band=True, sensor=sensor)
    read = same_pixels(tile, original, ["blue", "green"])
    np.testing.assert_array_equal(np.isnan(read), np.broadcast_to(values == 0, read.shape))
    (again,) = cut(tile["properties"]["source"])
    same_pixels(again, original, ["blue", "green"])


def test_chips_of_an_n0400_product_carry_the_offset(tmp_path, write_raster, cut):
    folder = tmp_path / "S2A_MSIL2A_20220301T101351_N0400_R022_T33UUP_20220301T131500.SAFE" / "IMG_DATA"
    write_raster(folder / "T33UUP_20220301T101351_B02_10m.jp2", np.full((16, 16), 1500, "uint16"))
    (tile,) = cut(folder, per_band=True, sensor="sentinel2-l2a", chips=str(tmp_path / "chips"))
    (again,) = cut(tile["properties"]["source"])
    for record in (tile, again):
        np.testing.assert_allclose(rasters.read_pixels(record, ["blue"]), 500)


def test_chips_replace_nothing_without_overwrite(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "x.tif", bands_of(2, 9, 9), names=["red", "nir"])
    before = (tmp_path / "x.tif").read_bytes()
    with pytest.raises(OutputError, match=r"x\.tif: exists already") as raised:
        cut(path, chips=str(tmp_path))
    assert raised.value.remedy == "overwrite"
    with pytest.raises(OutputError, match=r"x\.tif: is the scene itself") as raised:
        cut(path, chips=str(tmp_path), overwrite=True)
    assert raised.value.remedy == "chips"
    assert (tmp_path / "x.tif").read_bytes() == before
    chips = str(tmp_path / "chips")
    cut(path, chips=chips)
    with pytest.raises(OutputError, match="exists already"):
        cut(path, chips=chips)
    cut(path, chips=chips, overwrite=True)
    assert [file.name for file in (tmp_path / "chips").iterdir()] == ["x.tif"]


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint16", (0, 65535, None)),
        ("uint16", (7, 9, 11)),
        ("int16", (-9999, 0, None)),
        ("int16", (-32768, 32767, 5)),
        ("uint8", (0, 255, None)),
        ("int64", (0, 255, None)),
        ("float32", (-9999, np.nan, None)),
        ("float32", (0.5, 0.25, None)),
    ],
)
def test_chips_of_bands_with_nodata_of_their_own_are_invalid_where_the_bands_are(
    tmp_path, write_raster, cut, dtype, nodata
):
    names = ("red", "green", "blue")
    numbers = np.stack([np.arange(20 * 20).reshape(20, 20) % 256 + band for band in range(3)]).astype(dtype)
    for band, value in enumerate(nodata):
        if value is not None:
            numbers[band, band : band + 3, :5] = value
        file = tmp_path / "in" / f"T33UUP_20170613T101031_B0{4 - band}.tif"
        write_raster(file, numbers[band], nodata=value)
    settings = {"per_band": True, "sensor": "sentinel2-l2a", "scale": 1.0, "offset": 0.0}
    (tile,) = cut(tmp_path / "in", size=20, chips=str(tmp_path / "chips"), **settings)
    (plain,) = cut(tmp_path / "in", size=20, **settings)
    expected = rasters.read_pixels(plain, names)
    with np.errstate(invalid="ignore"):
        for band, value in enumerate(nodata):
            is_hole = np.isnan(numbers[band]) if value is np.nan else numbers[band] == value
            if None in nodata:
                is_hole |= numbers[band] == 0  # the sensor's, of all files if one declares none
            np.testing.assert_array_equal(np.isnan(expected[band]), is_hole)
    np.testing.assert_array_equal(rasters.read_pixels(tile, names), expected)
    (again,) = cut(tile["properties"]["source"])
    np.testing.assert_array_equal(rasters.read_pixels(again, names), expected)


def test_chips_of_bytes_of_each_value_have_a_larger_type(tmp_path, write_raster, cut):
    numbers = np.arange(2 * 256, dtype=np.uint8).reshape(2, 16, 16)
    numbers[1] = numbers[0].T
    masks = np.ones((2, 16, 16), bool)
    masks[0, :2], masks[1, :, 5:7] = False, False
    for band, name in enumerate(("B04", "B03")):
        write_raster(tmp_path / "in" / f"T33UUP_20170613T101031_{name}.tif", numbers[band], mask=masks[band])
    settings = {"per_band": True, "sensor": "sentinel2-l2a", "scale": 1.0, "offset": 0.0}
    (tile,) = cut(tmp_path / "in", size=16, chips=str(tmp_path / "chips"), **settings)
    with rasterio.open(tile["properties"]["source"]) as chip:
        assert (chip.dtypes[0], chip.nodata) == ("int16", -1)
    expected = np.where(masks, numbers, np.nan)
    np.testing.assert_array_equal(rasters.read_pixels(tile, ("red", "green")), expected)

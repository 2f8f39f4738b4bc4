"""Names of bands that the user, the file and the sensor state differently."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from support_rasters import SIX, bands_of

from rsr_cli.core.errors import BandError

RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("described", "given", "sensor", "says"),
    [
        (RGB, RGB, None, None),
        (RGB, ("blue", "green", "red"), None, "describes bands 1, 3 as red, blue; taking them as blue, red"),
        (RGB, ("blue", "-", "-"), None, "describes bands 1 as red; taking them as blue"),
        (RGB, ("-", "-", "blue"), None, None),
        (RGB, ("r", "g", "b"), None, None),  # names of one's own mean nothing else
        (("B04", "B03", "B02"), ("blue", "green", "red"), "sentinel2-l2a", "describes bands 1, 3 as red, blue; taking"),
        (("B04", "B03", "B02"), ("blue", "green", "red"), None, None),  # of which product?
        (("nir", "red"), ("nir08", "red"), None, None),  # nearly the same
        (("nir08", "red"), ("nir", "red"), None, None),
        (("nir08", "red"), ("swir16", "red"), None, "describes bands 1 as nir08; taking them as swir16"),
        (("", "red"), ("green", "blue"), None, "describes bands 2 as red; taking them as blue"),
        (("RED", "x"), ("green", "blue"), None, "describes bands 1 as red; taking them as green"),
        (("vv", "vh"), ("vh", "vv"), "sentinel1", "describes bands 1, 2 as vv, vh; taking them as vh, vv"),
        (("VV", "VH"), ("vh", "vv"), "sentinel1", "describes bands 1, 2 as vv, vh; taking them as vh, vv"),
    ],
)
@pytest.mark.parametrize("alpha", [False, True])
def test_descriptions_that_contradict_the_user(
    tmp_path, write_raster, cut, caplog, described, given, sensor, says, alpha
):
    pixels = bands_of(len(described) + alpha, 12, 12)
    if sensor == "sentinel1":
        pixels = -pixels.astype("float32") / 100
    path = write_raster(tmp_path / "x.tif", pixels, names=[*described, *[""] * alpha])
    if alpha:
        with rasterio.open(path, "r+") as raster:
            raster.colorinterp = [*raster.colorinterp[:-1], ColorInterp.alpha]
    tiles = cut(path, bands=given, sensor=sensor, size=4)
    assert {tuple(tile["properties"]["bands"]) for tile in tiles} == {given}
    found = [line for line in caplog.messages if "describes" in line]
    assert len(found) == (says is not None)
    assert says is None or found[0].startswith(f"x {says}")


@pytest.mark.parametrize(
    ("sensor", "names", "refused"),
    [
        ("sentinel2-l2a", ("vv", "vh"), True),
        ("landsat8", ("vv", "-"), True),
        ("rgb", ("hh", "hv"), True),
        ("sentinel1", ("red", "nir"), True),
        ("sentinel2-l2a", ("red", "vv"), False),
        ("sentinel2-l2a", ("ndvi", "slope"), False),
        ("sentinel1", ("vv", "angle"), False),
        (None, ("vv", "vh"), False),
    ],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_bands_of_another_kind_than_the_sensors(tmp_path, write_raster, cut, sensor, names, refused, by_file):
    dtype = {"rgb": "uint8", "sentinel1": "float32"}.get(sensor, "uint16")
    pixels = (bands_of(2, 8, 8) % 200).astype(dtype) * (np.array(-1, dtype) if sensor == "sentinel1" else 1)
    described = by_file and not {"ndvi", "angle"} & {*names}
    path = write_raster(tmp_path / "x.tif", pixels, names=["" if n == "-" else n for n in names] if described else None)
    settings = {"sensor": sensor} | ({} if described and "-" not in names else {"bands": names})
    if not refused:
        assert cut(path, **settings)[0]["properties"]["bands"] == list(names)
        return
    with pytest.raises(BandError, match=f"x.tif: has {names[0]}.*, which {sensor} does not have$") as raised:
        cut(path, **settings)
    assert raised.value.remedy == "sensor-else"


@pytest.mark.parametrize(
    ("sensor", "name", "says"),
    [
        ("hls-s30", "T32VNJ_20230610T103629_B02_20m", "sentinel2-l1c or sentinel2-l2a"),
        ("hls-l30", "S2A_32VNJ_20230610_0_L2A", "sentinel2-l1c or sentinel2-l2a"),
        ("landsat8", "20230610T103629_20230610T104042_T32VNJ", "sentinel2-l1c or sentinel2-l2a"),
        ("sentinel2-l2a", "LM05_L1TP_020039_20230804_20230908_02_T1", "landsat5 or landsat7 or landsat8"),
        ("sentinel2-l2a", "T32VNJ_20230610T103629_B02_20m", None),
        ("sentinel2-l1c", "T32VNJ_20230610T103629_B02", None),
        ("eurosat", "T32VNJ_20230610T103629_stack", None),  # patches of any Sentinel-2 product
        ("rgb", "T32VNJ_20230610T103629_TCI_10m", None),
        ("hls-s30", "HLS.S30.T32VNJ.2023161T103629.v2.0", None),
        ("hls-s30", "stack_20230610", None),
        ("landsat8", "x", None),
    ],
)
def test_a_name_of_another_familys_product(tmp_path, write_raster, cut, caplog, sensor, name, says):
    path = write_raster(tmp_path / f"{name}.tif", np.full((6, 8, 8), 9 if sensor == "rgb" else 7900, "uint16"))
    cut(path, sensor=sensor, bands=SIX, scale=1.0, offset=0.0, size=4)
    found = [line for line in caplog.messages if "named" in line]
    assert found == [f"{name} is named as products of {says} are; taking it as {sensor}"] * (says is not None)


def test_single_bands_of_another_familys_product(tmp_path, write_raster, cut, caplog):
    for band in ("B02", "B03"):
        write_raster(tmp_path / "in" / f"T32VNJ_20230610T103629_{band}_20m.tif", np.full((8, 8), 700, "int16"))
    (tile,) = cut(tmp_path / "in", per_band=True, sensor="hls-s30")
    assert tile["properties"]["bands"] == ["blue", "green"]
    assert [line.split(";")[0] for line in caplog.messages] == [
        "in is named as products of sentinel2-l1c or sentinel2-l2a are"
    ]

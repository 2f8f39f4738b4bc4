"""Sentinel-2 products as ESA lays them out."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from support_rasters import ONES, safe

from rsr_cli.core import rasters
from rsr_cli.core.errors import BandError
from rsr_cli.core.sensors import SENSORS


@pytest.mark.parametrize("sensor", ["landsat8", "hls-s30", "sentinel2-l1c"])
def test_a_sentinel_2_product_is_not_taken_for_another(tmp_path, write_raster, cut, sensor):
    safe(tmp_path, write_raster, "N0509")
    with pytest.raises(BandError, match=f"name or metadata identifies it as sentinel2-l2a, but the sensor is {sensor}"):
        cut(tmp_path, per_band=True, sensor=sensor)


def test_a_safe_tree_of_level_2a(tmp_path, write_raster, cut, monkeypatch):
    name, pixels = safe(tmp_path, write_raster, "N0400")
    (whole,) = cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a")
    properties = whole["properties"]
    assert whole["id"] == name.removesuffix(".SAFE")
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
    assert by_parent["id"] == name.removesuffix(".SAFE")
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


def metadata(level="2A", offsets=None, quantification=10000):
    """Write the metadata of a product as ESA does, with offsets by number of the band."""
    tag, kind, values = {
        "1C": (
            "RADIO_ADD_OFFSET",
            "Radiometric_Offset_List",
            "<QUANTIFICATION_VALUE unit='none'>{}</QUANTIFICATION_VALUE>",
        ),
        "2A": (
            *("BOA_ADD_OFFSET", "BOA_ADD_OFFSET_VALUES_LIST"),
            "<BOA_QUANTIFICATION_VALUE unit='none'>{}</BOA_QUANTIFICATION_VALUE>"
            "<AOT_QUANTIFICATION_VALUE unit='none'>1000.0</AOT_QUANTIFICATION_VALUE>",
        ),
    }[level]
    stated = "".join(f'<{tag} band_id="{number}">{offset}</{tag}>' for number, offset in (offsets or {}).items())
    return (
        f'<?xml version="1.0"?><n1:Level-{level}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/x.xsd">'
        f"<n1:General_Info><Product_Image_Characteristics>{values.format(quantification)}"
        f"{f'<{kind}>{stated}</{kind}>' if stated else ''}"
        f"</Product_Image_Characteristics></n1:General_Info></n1:Level-{level}_User_Product>"
    )


def made(folder, write_raster, baseline, xml=None, level="2A", bands=("B02", "B8A")):
    """Write a product of a few bands with this metadata; return its directory and that of its bands."""
    safe = folder / f"S2A_MSIL{level}_20170613T101031_{baseline}_R022_T33UUP_20170613T101608.SAFE"
    inside = safe / "GRANULE" / f"L{level}_T33UUP_A010313_20170613T101031" / "IMG_DATA"
    for band in bands:
        write_raster(inside / f"T33UUP_20170613T101031_{band}.tif", ONES * 1500)
    if xml:
        (safe / f"MTD_MSIL{level}.xml").write_text(xml)
    return safe, inside


@pytest.mark.parametrize(
    ("baseline", "level", "facts", "scale", "offset"),
    [
        ("N0509", "2A", {"offsets": dict.fromkeys(range(13), -1000)}, 1, -1000),
        ("N0500", "1C", {"offsets": dict.fromkeys(range(13), -1000)}, 1, -1000),
        ("N9999", "2A", {"offsets": dict.fromkeys(range(13), -1000)}, 1, -1000),
        ("N9999", "2A", {}, 1, 0),
        ("N0204", "1C", {}, 1, 0),
        ("N0204", "1C", {"quantification": 1000}, 10, 0),
        ("N0509", "2A", {"offsets": dict.fromkeys(range(13), -100), "quantification": 1000}, 10, -1000),
        ("N0509", "2A", {"offsets": {1: -1000, 8: -700}}, 1, [-1000, -700]),  # as bands are numbered: B02, B8A
    ],
)
def test_the_metadata_states_scale_and_offset(
    tmp_path, write_raster, cut, caplog, baseline, level, facts, scale, offset
):
    safe, inside = made(tmp_path / "archive", write_raster, baseline, metadata(level, **facts), level)
    (tmp_path / "latest").symlink_to(safe)
    (tmp_path / "bands").symlink_to(inside)
    (tmp_path / "flat").mkdir()
    for file in inside.iterdir():
        (tmp_path / "flat" / file.name).symlink_to(file)
    (safe / "GRANULE" / ".ipynb_checkpoints").mkdir()  # is no second granule
    sensor = f"sentinel2-l{level.lower()}"
    for path in (safe, tmp_path / "archive", tmp_path / "latest", tmp_path / "bands", tmp_path / "flat", inside):
        (tile,) = cut(path, per_band=True, sensor=sensor)
        assert (tile["properties"]["scale"], tile["properties"]["offset"]) == (scale, offset)
        assert tile["properties"]["datetime"] == "2017-06-13T10:10:31Z"
        other = "sentinel2-l1c" if level == "2A" else "sentinel2-l2a"
        with pytest.raises(BandError, match=f"identifies it as {sensor}, but the sensor is {other}") as raised:
            cut(path, per_band=True, sensor=other)
        assert (raised.value.remedy, raised.value.facts) == ("sensor", {"sensor": sensor})
    blue, nir = rasters.read_pixels(tile, ["blue", "nir08"])[:, 0, 0]
    first, last = offset if isinstance(offset, list) else (offset, offset)
    assert (blue, nir) == (1500 * scale + first, 1500 * scale + last)
    assert caplog.messages == []
    for name in ("latest", "archive"):
        assert cut(tmp_path / name, per_band=True, sensor=sensor)[0]["id"] == safe.stem
    # In a directory of another name, the metadata is enough.
    safe.rename(tmp_path / "renamed")
    (tile,) = cut(tmp_path / "renamed", per_band=True, sensor=sensor)
    assert (tile["id"], tile["properties"]["offset"]) == ("renamed", offset)
    with pytest.raises(BandError, match=f"identifies it as {sensor}, but the sensor is {other}"):
        cut(tmp_path / "renamed", per_band=True, sensor=other)


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (None, "has baseline 99.99, which ESA did not make, and no metadata above it"),
        ("<n1:", r"MTD_MSIL2A\.xml: cannot be read: "),
        (metadata(quantification="none"), r"MTD_MSIL2A\.xml: cannot be read: "),
        (metadata(quantification=0), r"MTD_MSIL2A\.xml: cannot be read: "),
        (metadata(offsets={99: -1000}), r"MTD_MSIL2A\.xml: cannot be read: "),
        (metadata(offsets={1: "much"}), r"MTD_MSIL2A\.xml: cannot be read: "),
        (metadata(offsets={1: -1000}), r"MTD_MSIL2A\.xml: states offsets, but none of nir08"),
    ],
)
def test_an_offset_that_nothing_states_is_asked_for(tmp_path, write_raster, cut, xml, says):
    safe, inside = made(tmp_path, write_raster, "N9999", xml)
    with pytest.raises(BandError, match=says) as raised:
        cut(safe, per_band=True, sensor="sentinel2-l2a")
    remedy = "scale" if "cannot be read" in says else "offset-unknown"
    assert raised.value.remedy == remedy
    given = {"scale": 1.0, "offset": -1000.0} if remedy == "scale" else {"offset": -1000.0}
    (tile,) = cut(safe, per_band=True, sensor="sentinel2-l2a", **given)
    assert tile["properties"]["offset"] == -1000
    for file in inside.iterdir():  # what the files declare is enough
        with rasterio.open(file, "r+") as raster:
            raster.scales, raster.offsets = [1e-4], [-0.1]
    (tile,) = cut(safe, per_band=True, sensor="sentinel2-l2a")
    assert (tile["properties"]["scale"], tile["properties"]["offset"]) == (1, -1000)


def test_a_patch_of_a_foreign_baseline_needs_the_offset(tmp_path, write_raster, cut):
    name = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
    write_raster(tmp_path / name / f"{name}_B02.tif", ONES)
    with pytest.raises(BandError, match=r"has baseline 99\.99") as raised:
        cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a")
    assert raised.value.remedy == "offset-unknown"
    assert cut(tmp_path / name, per_band=True, sensor="sentinel2-l2a", offset=0.0)[0]["properties"]["offset"] == 0


def test_metadata_of_2016(tmp_path, write_raster, cut):
    """It has another name, and one product had several granules."""
    safe = tmp_path / "S2A_OPER_PRD_MSIL1C_PDMC_20151231T144725_R008_V20151230T105153_20151230T105159.SAFE"
    for tile in ("T31UFS", "T31UFT"):
        granule = f"S2A_OPER_MSI_L1C_TL_SGS__20151230T141433_A002726_{tile}"
        for band in ("B02", "B03"):
            write_raster(safe / "GRANULE" / f"{granule}_N02.01" / "IMG_DATA" / f"{granule}_{band}.jp2", ONES)
    xml = "S2A_OPER_MTD_SAFL1C_PDMC_20151231T144725_R008_V20151230T105153_20151230T105159.xml"
    (safe / xml).write_text(metadata("1C", quantification=1000))
    for path in (safe, tmp_path):
        tiles = cut(path, per_band=True, sensor="sentinel2-l1c")
        expected = [f"{safe.stem}/S2A_OPER_MSI_L1C_TL_SGS__20151230T141433_A002726_T31UF{end}_N02.01" for end in "ST"]
        assert [tile["id"] for tile in tiles] == expected
        assert {tile["properties"]["datetime"] for tile in tiles} == {"2015-12-30T10:51:53Z"}
        assert {tile["properties"]["scale"] for tile in tiles} == {10}
    with pytest.raises(BandError, match="identifies it as sentinel2-l1c, but the sensor is sentinel2-l2a"):
        cut(safe, per_band=True, sensor="sentinel2-l2a")


def test_the_offset_needs_the_products_own_directory(tmp_path, write_raster, cut, caplog):
    name = "S2B_MSIL2A_20220115T101309_N0400_R022_T33UUP_20220115T120000"
    for folder, offset in ((name, 0), (f"{name}.SAFE", -1000)):
        caplog.clear()
        write_raster(tmp_path / folder / "B02.tif", ONES)
        (tile,) = cut(tmp_path / folder, per_band=True, sensor="sentinel2-l2a")
        assert tile["properties"]["offset"] == offset
        assert [line.split(" is named after baseline 04.00, and")[0] for line in caplog.messages] == [name] * (
            not offset
        )


@pytest.mark.parametrize(
    ("date", "settings", "doubted"),
    [
        ("20230613", {}, True),
        ("20230613", {"offset": 0.0}, False),
        ("20230613", {"offset": -1000.0}, False),
        ("20230613", {"scale": 1.0}, False),
        ("20220124", {}, False),
    ],
)
def test_an_offset_that_may_be_there_is_said(tmp_path, write_raster, cut, caplog, date, settings, doubted):
    write_raster(tmp_path / f"T33UUP_{date}T101031_B02_10m.tif", ONES)
    (tile,) = cut(tmp_path, per_band=True, sensor="sentinel2-l2a", **settings)
    assert tile["properties"]["offset"] == settings.get("offset", 0)
    assert [" was acquired on 2023-06-13, and products of" in line for line in caplog.messages] == [True] * doubted


@pytest.mark.parametrize(
    ("name", "tags", "settings", "says"),
    [
        ("x", {}, {}, None),
        ("x", {}, {"datetime": "2023-06-10T00:00:00Z"}, "was acquired on 2023-06-10"),
        ("x", {}, {"datetime": "2021-06-10T00:00:00Z"}, None),
        ("x", {"TIFFTAG_DATETIME": "2023:06:10 10:36:29"}, {}, "is dated 2023-06-10"),
        ("x", {"acquisition_date": "20230610"}, {}, "is dated 2023-06-10"),
        ("x", {"TIFFTAG_DATETIME": "2019:06:10 10:36:29"}, {}, None),
        ("x", {"TIFFTAG_DATETIME": "2023:06:10 10:36:29"}, {"datetime": "2021-06-10T00:00:00Z"}, None),
        ("x", {"TIFFTAG_SOFTWARE": "20230610"}, {}, None),
        ("s2_20230610", {}, {}, "is dated 2023-06-10"),
        ("2023-06-10-stack", {}, {}, "is dated 2023-06-10"),
        ("s2_20220124", {}, {}, None),
        ("s2_20230610", {}, {"offset": 0.0}, None),
        ("order_120230610", {}, {}, None),
    ],
)
@pytest.mark.parametrize("nodata", [None, 7])
def test_a_date_that_anything_states(tmp_path, write_raster, cut, caplog, name, tags, settings, says, nodata):
    path = write_raster(tmp_path / f"{name}.tif", np.full((12, 8, 8), 500, "uint16"), nodata=nodata)
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(**tags)
    (tile,) = cut(path, sensor="sentinel2-l2a", **settings)
    assert tile["properties"]["offset"] == 0
    assert tile["properties"].get("datetime") == settings.get("datetime")  # a hint is not the time of the acquisition
    assert [line.split(", and products of baseline 04.00")[0] for line in caplog.messages] == [f"{name} {says}"] * (
        says is not None
    )


def reflecting(*levels, size=200, seed=0):
    """Return uint16 bands of reflectance x 10000: a quarter of these levels on average in the darkest places."""
    shape = (len(levels), size, size)
    levels = np.array(levels)[:, None, None]
    return (levels * np.random.default_rng(seed).uniform(0.25, 1.5, shape)).astype("uint16")


DARK = (400, 700, 500, 3500, 2000, 1000)  # vegetation, in the six bands of Prithvi
FOUR = ["red", "green", "blue", "nir"]


@pytest.mark.parametrize(
    ("pixels", "settings", "doubted"),
    [
        (reflecting(*DARK) + 1000, {}, True),
        (reflecting(*DARK) + 1000, {"datetime": "2019-06-10T00:00:00Z"}, True),  # collection 1 was processed anew
        (reflecting(*DARK) + 1000, {"sensor": "sentinel2-l1c"}, True),
        (reflecting(*DARK)[:4] + 1000, {"bands": FOUR}, True),
        (reflecting(*DARK, size=30) + 1000, {}, True),
        (np.where(reflecting(*DARK) % 3000 == 1, 900, reflecting(*DARK) + 1000), {}, True),  # one in thousands
        (np.where(np.arange(200) < 150, 0, reflecting(*DARK) + 1000), {}, True),  # beside what is not there
        (reflecting(*DARK), {}, False),
        (reflecting(*DARK) + 500, {}, False),
        (reflecting(*DARK) + 1000, {"offset": -1000.0}, False),
        (reflecting(*DARK) + 1000, {"offset": 0.0}, False),
        (reflecting(*DARK) + 1000, {"scale": 1.0, "offset": 0.0}, False),
        (reflecting(*DARK) + 2000, {}, False),  # sand and snow
        (reflecting(*DARK, size=12) + 1000, {}, False),  # too few
        (reflecting(3500, 3000)[:, :100] + 1000, {"bands": ["nir", "nir08"]}, False),  # never dark over land
    ],
)
def test_numbers_that_have_the_offset(tmp_path, write_raster, cut, caplog, pixels, settings, doubted):
    path = write_raster(tmp_path / "x.tif", pixels.astype("uint16"))
    settings = {"sensor": "sentinel2-l2a", "bands": ["blue", "green", "red", "nir08", "swir16", "swir22"]} | settings
    (tile,) = cut(path, **settings)
    assert tile["properties"]["offset"] == settings.get("offset", 0)
    says = r"x has numbers of 1\d\d\d and more, and products of baseline 04\.00 and later have an offset .*; taking 0"
    assert len(caplog.messages) == doubted
    assert all(re.fullmatch(says, line) for line in caplog.messages)


@pytest.mark.parametrize("baseline", ["N0204", "N0400", None])
def test_numbers_do_not_count_where_the_offset_is_stated(tmp_path, write_raster, cut, caplog, baseline):
    pixels = reflecting(*DARK) + 1000
    if baseline:
        safe, inside = made(tmp_path, write_raster, baseline)
        for number, band in enumerate(("B02", "B03", "B04")):
            write_raster(inside / f"T33UUP_20170613T101031_{band}.tif", pixels[number])
        (inside / "T33UUP_20170613T101031_B8A.tif").unlink()
        cut(safe, per_band=True, sensor="sentinel2-l2a")
    else:
        path = write_raster(tmp_path / "x.tif", pixels[:3], names=["blue", "green", "red"])
        with rasterio.open(path, "r+") as raster:
            raster.scales, raster.offsets = [1e-4] * 3, [-0.1] * 3
        cut(path, sensor="sentinel2-l2a")
    assert caplog.messages == []


def test_metadata_that_lacks_the_offset_of_its_baseline(tmp_path, write_raster, cut, caplog):
    safe, _ = made(tmp_path, write_raster, "N0509", metadata())
    assert cut(safe, per_band=True, sensor="sentinel2-l2a")[0]["properties"]["offset"] == 0
    assert "has no offset in its MTD_MSIL2A.xml, but products of baseline 04.00" in caplog.messages[0]


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

"""Thumbnails from arrays worked out by hand."""

import numpy as np
import pytest
from rasterio import Affine

from rsr_cli.core.errors import BandError
from rsr_cli.core.figures import thumbnails


def constant(*values):
    return np.float32([[values]] * 3)


def shown(*tiles, percentiles=(0, 100)):
    """Return the red of each thumbnail's only row."""
    return [None if one is None else one[0, :, 0].tolist() for one in thumbnails.stretch(tiles, percentiles)]


def test_tiles_are_stretched_alike():
    first, none, second = thumbnails.stretch([constant(0, 100), None, constant(50, 100, np.nan)], (0, 100))
    assert none is None
    assert first.tolist() == [[[0, 0, 0, 255], [255, 255, 255, 255]]]
    assert second.tolist() == [[[128, 128, 128, 255], [255, 255, 255, 255], [0, 0, 0, 0]]]


def test_the_limits_are_those_of_all_but_the_brightest_tiles():
    """Of 500, 1000, 1500, 2500 and 9000 the third quartile is 2500; the least of the lower ones is 0."""
    tiles = [constant(0, 500), constant(5000, 9000), constant(500, 2500), constant(500, 1000), constant(1000, 1500)]
    assert shown(*tiles) == [[0, 51], [255, 255], [51, 255], [51, 102], [102, 153]]
    assert shown(*tiles[::-1]) == shown(*tiles)[::-1]
    assert shown(*tiles[:2]) == [[0, 255], [255, 255]]  # of two, the darker one
    assert shown(*tiles[:4]) == [[0, 51], [255, 255], [51, 255], [51, 102]]


def test_dark_and_even_tiles_are_not_black():
    """Water of even brightness, different in each tile: none is clipped."""
    found = shown(*(constant(value, value + 10) for value in (100, 200, 300, 400)))
    assert [one[0] > 0 for one in found] == [False, True, True, True]
    assert all(one[0] < one[1] for one in found[:3])


@pytest.mark.parametrize("bright", [1, 2])
def test_bright_tiles_leave_the_others_as_they_are(bright):
    """A cloud, saturated or not, among tiles of land."""
    random = np.random.default_rng(0)
    land = [random.uniform(300, 2500, (3, 8, 8)).astype(np.float32) for _ in range(4)]
    clouds = [np.full((3, 8, 8), 10_000, np.float32), random.uniform(8000, 9000, (3, 8, 8)).astype(np.float32)]
    without = thumbnails.stretch(land, (2, 98))
    found = thumbnails.stretch([*land, *clouds[:bright]], (2, 98))
    for one, alone in zip(found, without, strict=False):
        assert np.abs(one.astype(int) - alone).mean() < 8
    assert all((one[..., :3] == 255).all() for one in found[4:])


def test_percentiles_are_those_of_each_band():
    tile = np.float32([[[0, 10, 20, 30, 40]], [[0, 1, 2, 3, 4]], [[7, 7, 7, 7, 9]]])
    (thumbnail,) = thumbnails.stretch([tile], (25, 75))
    assert thumbnail[0, :, 0].tolist() == thumbnail[0, :, 1].tolist() == [0, 0, 128, 255, 255]
    assert thumbnail[0, :, 2].tolist() == [0] * 5  # without contrast: 7 and 9 of 10,000


def test_a_pixel_that_is_invalid_in_one_band_is_transparent_and_does_not_count():
    tile = np.float32([[[0, 1, 900]], [[0, 1, np.nan]], [[0, 1, 900]]])
    (thumbnail,) = thumbnails.stretch([tile], (0, 100))
    assert thumbnail.tolist() == [[[0, 0, 0, 255], [255, 255, 255, 255], [0, 0, 0, 0]]]


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (2000, 51), (10_000, 255), (20_000, 255), (-500, 0), (np.nan, 0)])
def test_tiles_without_contrast_are_as_bright_as_their_reflectance(value, grey):
    assert shown(constant(value, value), percentiles=(2, 98)) == [[grey, grey]]
    assert shown(*[constant(value, value)] * 3, None) == [[grey, grey]] * 3 + [None]


def test_a_saturated_row_is_white():
    """98 % of the pixels have the greatest number, so that both percentiles are the same."""
    tile = np.full((3, 10, 10), 10_000, np.float32)
    tile[:, 0, 0] = 100
    (thumbnail,) = thumbnails.stretch([tile], (2, 98))
    assert thumbnail[0, 0].tolist() == [3, 3, 3, 255]
    assert (thumbnail.reshape(-1, 4)[1:] == 255).all()


def test_a_tile_without_a_valid_pixel_does_not_count():
    assert shown(constant(np.nan, np.nan), constant(0, 100), constant(np.nan, np.nan)) == [[0, 0], [0, 255], [0, 0]]


@pytest.mark.parametrize(("side", "shown"), [(256, (256, 8)), (257, (129, 4)), (600, (200, 3))])
def test_large_tiles_are_thinned(tmp_path, write_raster, cut, side, shown):
    path = write_raster(tmp_path / "a.tif", np.ones((3, side, 8), np.uint16), names=("red", "green", "blue"))
    assert thumbnails.read(cut(path)[0], ["red", "green", "blue"]).shape == (3, *shown)


@pytest.mark.parametrize("down", [-10, 10], ids=["north up", "south up"])
def test_north_is_at_the_top(tmp_path, write_raster, cut, down):
    rows = np.arange(8, dtype="uint16")[:, None] * np.ones((1, 8), "uint16")
    place = Affine(10, 0, 600000, 0, down, 5300000)
    (tile,) = cut(write_raster(tmp_path / "x.tif", rows, transform=place), bands=["red"])
    seen = thumbnails.read(tile, ["red"])[0, :, 0]
    assert seen.tolist() == (list(range(8)) if down < 0 else list(range(8))[::-1])


def test_a_missing_band_is_named(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "a.tif", np.ones((2, 8, 8), np.uint16), names=("red", "green"))
    with pytest.raises(BandError, match=r"band blue is missing \(has red, green\)") as raised:
        thumbnails.read(cut(path)[0], ["red", "green", "blue"])
    assert (raised.value.remedy, raised.value.facts) == ("shown-bands", {"bands": "red"})


@pytest.mark.parametrize(
    ("bands", "of"),
    [(["vv", "vh", "vv"], (0, 1, 0)), (["vh"] * 3, (1, 1, 1)), (["vh"], (1, 1, 1)), (["hh", "vh", "vv"], (2, 1, 0))],
)
def test_bands_may_be_repeated_and_one_is_grey(tmp_path, write_raster, cut, bands, of):
    pixels = np.random.default_rng(0).normal(-15, 4, (3, 8, 8)).astype(np.float32)
    path = write_raster(tmp_path / "a.tif", pixels, names=("vv", "vh", "hh"))
    assert (thumbnails.read(cut(path)[0], bands) == pixels[list(of)]).all()


def test_decibels_are_stretched_as_reflectance_is():
    assert shown(constant(-25, -20, -15, np.nan), constant(-25, -17.5, -30)) == [[102, 204, 255, 0], [102, 255, 0]]


@pytest.mark.parametrize(
    ("names", "choice"), [(("vv",), "vv"), (("-", "vv", "vh"), "vv"), (("a", "b", "-", "c", "d"), "a,b,c")]
)
def test_a_choice_of_bands_is_named(tmp_path, write_raster, cut, names, choice):
    path = write_raster(tmp_path / "a.tif", np.ones((len(names), 8, 8), np.uint16))
    with pytest.raises(BandError) as raised:
        thumbnails.read(cut(path, bands=names)[0], ["red", "green", "blue"])
    assert raised.value.facts == {"bands": choice}

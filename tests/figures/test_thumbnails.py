"""Thumbnails from arrays worked out by hand."""

import numpy as np
import pytest

from rsr_cli.core.errors import BandError
from rsr_cli.core.figures import thumbnails


def test_tiles_are_stretched_alike_between_percentiles_of_all():
    one = np.tile(np.float32([[0, 50]]), (3, 1, 1))
    other = np.tile(np.float32([[100, np.nan]]), (3, 1, 1))
    first, none, second = thumbnails.stretch([one, None, other], (0, 100))
    assert none is None
    assert first.tolist() == [[[0, 0, 0, 255], [128, 128, 128, 255]]]
    assert second.tolist() == [[[255, 255, 255, 255], [0, 0, 0, 0]]]


def test_a_pixel_that_is_invalid_in_one_band_is_transparent_and_does_not_count():
    tile = np.float32([[[0, 1, 900]], [[0, 1, np.nan]], [[0, 1, 900]]])
    (thumbnail,) = thumbnails.stretch([tile], (0, 100))
    assert thumbnail.tolist() == [[[0, 0, 0, 255], [255, 255, 255, 255], [0, 0, 0, 0]]]


@pytest.mark.parametrize("value", [7, np.nan])
def test_tiles_without_contrast(value):
    (thumbnail,) = thumbnails.stretch([np.full((3, 1, 2), value, np.float32)], (2, 98))
    assert thumbnail[..., :3].max() == 0


@pytest.mark.parametrize(("side", "shown"), [(256, (256, 8)), (257, (129, 4)), (600, (200, 3))])
def test_large_tiles_are_thinned(tmp_path, write_raster, cut, side, shown):
    path = write_raster(tmp_path / "a.tif", np.ones((3, side, 8), np.uint16), names=("red", "green", "blue"))
    assert thumbnails.read(cut(path)[0], ["red", "green", "blue"]).shape == (3, *shown)


def test_a_missing_band_is_named(tmp_path, write_raster, cut):
    path = write_raster(tmp_path / "a.tif", np.ones((2, 8, 8), np.uint16), names=("red", "green"))
    with pytest.raises(BandError, match=r"band blue is missing \(has red, green\)") as raised:
        thumbnails.read(cut(path)[0], ["red", "green", "blue"])
    assert raised.value.remedy == "three-bands"

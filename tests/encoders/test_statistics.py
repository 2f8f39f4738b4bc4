"""Band statistics."""

from __future__ import annotations

import numpy as np
import pytest

from rsr_cli.core.encoders.statistics import BY_BAND, PRITHVI_BANDS, PRITHVI_V1, SSL4EO, check_statistics, of_bands
from rsr_cli.core.errors import UsageError

SENTINEL2 = (
    *("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078"),
    *("nir", "nir08", "nir09", "swir16", "swir22"),
)


def test_statistics_are_found_by_the_name_of_the_band():
    found = of_bands(["nir08", "coastal"])
    assert found.mean == (PRITHVI_V1.mean[PRITHVI_BANDS.index("nir08")], SSL4EO["coastal"][0])
    assert found.std == (PRITHVI_V1.std[PRITHVI_BANDS.index("nir08")], SSL4EO["coastal"][1])
    assert of_bands(["red", "lwir11"]) is None
    assert of_bands(PRITHVI_BANDS) == PRITHVI_V1


def test_neighbours_in_the_spectrum_have_similar_statistics_whatever_their_source():
    assert set(SENTINEL2) == set(BY_BAND)
    means, stds = np.array([BY_BAND[band] for band in SENTINEL2]).T
    assert (np.abs(np.diff(means)) < 1000).all()
    assert (np.abs(np.diff(stds)) < 500).all()


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ([0], [1, 1], "m reads 2 bands, but mean has 1 value"),
        ([0, 0], [1], "m reads 2 bands, but std has 1 value"),
        ([0, float("inf")], [1, 1], "finite"),
        ([0, 0], [1, 0], "std positive"),
        ([0, 0], [1, float("nan")], "finite"),
    ],
)
def test_statistics_that_cannot_normalise_are_refused(mean, std, says):
    with pytest.raises(UsageError, match=says):
        check_statistics("m", 2, mean, std)

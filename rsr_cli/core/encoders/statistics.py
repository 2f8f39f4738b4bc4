"""Band statistics: means and standard deviations in reflectance x 10000, with their sources."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsr_cli.core.errors import UsageError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Statistics:
    """What normalises a model's input: ``(reflectance x 10000 - mean) / std``.

    Attributes
    ----------
    mean, std : tuple of float
        One value per band.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


#: Input bands of all Prithvi models.
PRITHVI_BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
#: https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-1.0-100M/blob/main/config.json; terratorch rounds them.
PRITHVI_V1 = Statistics(
    mean=(
        *(775.2290211032589, 1080.992780391705, 1228.5855250417867),
        *(2497.2022620507532, 2204.2139147975554, 1610.8324823273745),
    ),
    std=(
        *(1281.526139861424, 1270.0297974547493, 1399.4802505642526),
        *(1368.3446143747644, 1291.6764008585435, 1154.505683480695),
    ),
)
#: https://huggingface.co/ibm-nasa-geospatial/Prithvi-EO-2.0-300M/blob/main/config.json; all of version 2 have the same.
PRITHVI_V2 = Statistics(
    mean=(1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0), std=(2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)
)
#: Takes 0..10000 to -1..1, as in the paper.
RGB = Statistics(mean=(5000.0,) * 3, std=(5000.0,) * 3)
#: Takes a reflectance of 0 to 0.3, which true-colour images show, to 0..255, and that to (x - 127) / 128.
LITE0 = Statistics(mean=(3000 * 127 / 255,) * 3, std=(3000 * 128 / 255,) * 3)
#: STAC common name -> mean and standard deviation of Sentinel-2 surface reflectance in SSL4EO-S12, 50,000 samples from
#: all over the world: S2A_MEAN and S2A_STD of
#: https://github.com/zhu-xlab/SSL4EO-S12/blob/main/src/benchmark/pretrain_ssl/datasets/SSL4EO/ssl4eo_dataset.py
#: (Wang et al.: SSL4EO-S12, 2023, https://arxiv.org/abs/2211.07044)
SSL4EO = {
    "coastal": (752.40, 1108.03),
    "rededge071": (1624.91, 1370.27),
    "rededge075": (2194.64, 1355.55),
    "rededge078": (2422.21, 1416.51),
    "nir": (2517.76, 1474.79),
    "nir09": (2645.52, 1582.28),
}
#: STAC common name -> mean and standard deviation, for encoders that read any bands.
BY_BAND = SSL4EO | dict(zip(PRITHVI_BANDS, zip(PRITHVI_V1.mean, PRITHVI_V1.std, strict=True), strict=True))


def of_bands(bands: Sequence[str]) -> Statistics | None:
    """Return the statistics of bands by name, or ``None`` unless `BY_BAND` has all of them."""
    if not set(bands) <= BY_BAND.keys():
        return None
    return Statistics(tuple(BY_BAND[band][0] for band in bands), tuple(BY_BAND[band][1] for band in bands))


def check_statistics(model: str, n_bands: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Check the statistics that normalise a model's input.

    Raises
    ------
    UsageError
        There is not one number per band, a number is not finite, or a deviation is not positive.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != n_bands:
            has = counted(len(values), "value")
            raise UsageError(f"{model} reads {counted(n_bands, 'band')}, but {name} has {has}")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UsageError("mean must be finite numbers and std positive ones")

"""ForestNet: composites of Landsat 8 around places of forest loss (Irvin et al. 2020, https://arxiv.org/abs/2011.05479)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import RasterError
from rsr_cli.core.sources.base import SPLITS, Dataset, Found, band_in_file, check_below, missing, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.errors import Skips

_DOWNLOAD = "http://download.cs.stanford.edu/deep/ForestNetDataset.zip (3 GB)"
_IMAGES = _VISIBLE, _INFRARED = "visible/composite.png", "infrared/composite.npy"
#: Band -> its file, and its number there.
_BANDS = {
    **{band: (_VISIBLE, index) for band, index in (("blue", 3), ("green", 2), ("red", 1))},
    **{band: (_INFRARED, index) for index, band in enumerate(("nir08", "swir16", "swir22"), 1)},
}


class ForestNet(Dataset):
    """ForestNet, with its 12 classes or the 4 they are merged into."""

    name = "forestnet"
    title = "ForestNet"
    class_counts = (12, 4)
    scale = 10000 / 255

    def patches(self, root: Path, skips: Skips) -> Iterator[Found]:
        """Find the examples; see `Dataset.patches`."""
        bands = self.choose_bands(_BANDS)
        for split in [self.split] if self.split else SPLITS:
            listed = root / f"{split}.csv"
            rows = read_rows(listed, _DOWNLOAD)
            names = next(rows)
            for line, row in enumerate(rows, 2):
                try:
                    yield self._patch(root, split, bands, dict(zip(names, row, strict=True)))
                except (KeyError, ValueError) as error:
                    skips(RasterError(f"is not an example of ForestNet: {error!r}", f"{listed}:{line}"))
                except RasterError as error:
                    skips(error)

    def _patch(self, root: Path, split: str, bands: list[str], facts: dict[str, str]) -> Found:
        """Return the patch of one row.

        Raises
        ------
        KeyError, ValueError
            The row lacks a column, or has a value that cannot be one.
        RasterError
            An image is missing.
        """
        lon, lat, year = float(facts["longitude"]), float(facts["latitude"]), int(facts["year"])
        example = check_below(facts["example_path"], root / f"{split}.csv")
        label = facts["merged_label" if self.classes == 4 else "label"]
        if not (abs(lon) <= 180 and abs(lat) <= 90 and 1900 <= year <= 2100 and label):
            raise ValueError(f"{lon}, {lat}, {year}, {label!r}")
        images = root / example / "images"
        for file in _IMAGES:
            if not (images / file).is_file():
                raise missing(images / file, _DOWNLOAD)
        properties = {
            "labels": [label],
            "split": split,
            # The year is that of the loss; the composite is from the years after it.
            "datetime": None,
            "start_datetime": f"{year}-01-01T00:00:00Z",
            "end_datetime": f"{year}-12-31T23:59:59Z",
        }
        source = {band: band_in_file(images / _BANDS[band][0], _BANDS[band][1]) for band in bands}
        geometry = {"type": "Point", "coordinates": [lon, lat]}
        return Found(Path(example).as_posix(), source, root.name, properties, geometry, self.scale)

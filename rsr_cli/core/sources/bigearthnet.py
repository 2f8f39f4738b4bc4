"""BigEarthNet-S2: v1.0, or v2 (reBEN) if it has a ``metadata.parquet``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson

from rsr_cli.core.errors import RasterError, UsageError, counted
from rsr_cli.core.inputs import open_regular, read_bytes
from rsr_cli.core.sensors import SENSORS
from rsr_cli.core.sensors.base import Product
from rsr_cli.core.sources.base import Dataset, Found, check_below, missing, read_rows
from rsr_cli.core.sources.files import absolute
from rsr_cli.core.times import parse_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rsr_cli.core.errors import Skips

log = logging.getLogger("rsr")

_DOWNLOAD_1 = "BigEarthNet-S2-v1.0.tar.gz (66 GB) of https://zenodo.org/records/12687186"
_DOWNLOAD_1_SPLITS = "https://git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models, directory splits"
_DOWNLOAD_2 = "https://zenodo.org/records/10891137"

#: BigEarthNet's 19 classes, and the classes of CORINE Land Cover that each is made of. Eleven of the 43 have no place
#: there: label_indices.json of https://git.tu-berlin.de/rsim/BigEarthNet-S2_19-classes_models
#: (Sumbul et al. 2021, https://arxiv.org/abs/2105.07921, table 2).
NOMENCLATURE_19 = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        *("Vineyards", "Fruit trees and berry plantations", "Olive groves"),
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
_OF_43 = {old: new for new, olds in NOMENCLATURE_19.items() for old in olds}
#: Classes of the 43 that the 19 leave out.
WITHOUT_19 = frozenset(
    (
        *("Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites"),
        *("Dump sites", "Construction sites", "Green urban areas", "Sport and leisure facilities", "Bare rock"),
        *("Burnt areas", "Intertidal flats"),
    )
)
#: The end of the name of the file with a patch's labels (v1.0).
_LABELS = "_labels_metadata.json"
_SENSOR = SENSORS["sentinel2-l2a"]


class BigEarthNet(Dataset):
    """BigEarthNet-S2, with its 43 classes or the 19 they are merged into."""

    name = "bigearthnet"
    title = "BigEarthNet-S2 v1.0 or v2"
    class_counts = (43, 19)
    # The files are as Sentinel-2's, but do not declare the sensor's nodata value: 0 is a number here.
    scale = 1.0

    def patches(self, root: Path, skips: Skips) -> Iterator[Found]:
        """Find the patches; see `Dataset.patches`. Those without a class of the nomenclature are left out.

        The directory may be a single patch of v1.0.
        """
        root = root if root.name else absolute(str(root))  # patches are named after their directories
        version_2 = (root / "metadata.parquet").is_file()
        left_out = 0
        for directory, split, labels in self._list_2(root) if version_2 else self._list_1(root):
            try:
                if labels is None:
                    labels, when = self._metadata_1(directory)
                else:
                    when = _SENSOR.datetime_of(Product(str(directory)))
                if not labels:
                    left_out += 1
                    continue
                source = self._files(directory, _DOWNLOAD_2 if version_2 else _DOWNLOAD_1)
            except RasterError as error:
                skips(error)
                continue
            properties = {"datetime": when, "labels": labels, **({"split": split} if split else {})}
            yield Found(directory.name, source, directory.parent.name, properties, scale=self.scale)
        if left_out:
            classes = 19 if version_2 else self.classes or 43
            log.warning("left out %s with none of the %d classes", counted(left_out, "patch"), classes)

    def _list_1(self, root: Path) -> Iterator[tuple[Path, str | None, None]]:
        """List v1.0: the patches of a split in its list's order, or all directories that are there."""
        patches = root / "BigEarthNet-v1.0"
        patches = patches if patches.is_dir() else root
        if self.split is None:
            found = [root] if (root / f"{root.name}{_LABELS}").is_file() else []
            found = found or sorted(file.parent for file in patches.glob(f"[!.]*/[!.]*{_LABELS}"))
            if not found:
                what = f"contains neither a patch of BigEarthNet with its {_LABELS} nor v2's metadata.parquet"
                raise RasterError(f"{what}; they are in {_DOWNLOAD_1} and {_DOWNLOAD_2}", str(patches))
            yield from ((directory, None, None) for directory in found)
            return
        # as published, and as torchgeo saves it
        lists = [root / f"{self.split}.csv", root / f"bigearthnet-{self.split}.csv"]
        listed = next((file for file in lists if file.is_file()), lists[0])
        for row in read_rows(listed, _DOWNLOAD_1_SPLITS):
            yield patches / check_below(row[0].strip(), listed), self.split, None

    def _list_2(self, root: Path) -> Iterator[tuple[Path, str, list[str]]]:
        """List v2: the rows of ``metadata.parquet``; each patch is below the directory of its product."""
        import pyarrow
        import pyarrow.parquet

        if self.classes == 43:
            raise UsageError("BigEarthNet v2 has 19 classes; only v1.0 has 43", str(root))
        path = root / "metadata.parquet"
        try:
            open_regular(path).close()
            batches = pyarrow.parquet.ParquetFile(path).iter_batches(columns=["patch_id", "labels", "split"])
            for row in (row for batch in batches for row in batch.to_pylist()):
                name, labels = str(row["patch_id"]), list(row["labels"] or ())
                split = "val" if row["split"] == "validation" else row["split"]
                if self.split in (None, split):
                    yield root / "BigEarthNet-S2" / check_below(name.rsplit("_", 2)[0], path) / name, split, labels
        except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
            raise RasterError(f"cannot be read: {error}; download it from {_DOWNLOAD_2}", str(path)) from None

    def _metadata_1(self, directory: Path) -> tuple[list[str], str]:
        """Read the labels of a v1.0 patch, in the nomenclature asked for, and its acquisition time."""
        path = directory / f"{directory.name}{_LABELS}"
        try:
            facts = orjson.loads(read_bytes(path))
            labels, when = facts["labels"], parse_datetime(facts["acquisition_date"])
        except OSError:
            raise missing(path, _DOWNLOAD_1) from None
        except (orjson.JSONDecodeError, KeyError, TypeError, UsageError) as error:
            raise RasterError(f"does not state labels and acquisition_date: {error!r}", str(path)) from None
        if not isinstance(labels, list):
            raise RasterError("has labels that are not a list", str(path))
        unknown = [label for label in labels if label not in _OF_43 and label not in WITHOUT_19]
        if unknown:
            raise RasterError(f"has the label {unknown[0]!r}, which is none of the 43", str(directory))
        if self.classes == 19:
            labels = list(dict.fromkeys(_OF_43[label] for label in labels if label in _OF_43))
        return labels, when

    def _files(self, directory: Path, download: str) -> dict[str, str]:
        """Return a patch's files by band; all of them exist."""
        product = {common: band for band, common in _SENSOR.bands.items()}
        source = {}
        for common in self.choose_bands(product):
            file = directory / f"{directory.name}_{product[common]}.tif"
            if not file.is_file():
                raise missing(file, download)
            source[common] = str(file)
        return source

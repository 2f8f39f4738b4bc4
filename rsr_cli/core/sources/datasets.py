"""Published data sets of labelled patches: BigEarthNet, ForestNet, and folders that hold a class each."""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from rsr_cli.core.errors import RasterError, Skips, UsageError
from rsr_cli.core.rasters.scenes import Found, TileSettings, find_scenes
from rsr_cli.core.sensors.base import SENSORS, parse_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("rsr")

SPLITS = ("train", "val", "test")
#: Share of each class in val and in test; the rest is train.
DRAWN_SHARE = 0.2

_BIGEARTHNET_1 = "BigEarthNet-S2-v1.0.tar.gz (66 GB) of https://zenodo.org/records/12687186"
_BIGEARTHNET_1_SPLITS = "https://git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models, folder splits"
_BIGEARTHNET_2 = "https://zenodo.org/records/10891137"
_FORESTNET = "http://download.cs.stanford.edu/deep/ForestNetDataset.zip (3 GB)"

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


def settle(settings: TileSettings) -> TileSettings:
    """Give settings what a data set decides: patches are taken whole, their sensor and scale are known.

    Raises
    ------
    UsageError
        The options do not belong to the data set.
    """
    if settings.dataset is None:
        if settings.split or settings.classes:
            raise UsageError("--split and --classes belong to --dataset")
        return settings
    archive = ARCHIVES[settings.dataset]
    if settings.classes is not None and settings.classes not in archive.classes:
        numbers = " or ".join(map(str, archive.classes))
        raise UsageError(
            f"{settings.dataset} takes --classes {numbers}"
            if numbers
            else f"{settings.dataset} takes no --classes: each folder is one"
        )
    fixed = [name for name in archive.decides if getattr(settings, name) not in (None, False)]
    if fixed:
        raise UsageError(f"{settings.dataset} decides --{fixed[0].replace('_', '-')} itself; leave it out")
    return dataclasses.replace(settings, whole=True, **archive.decides)


def find_patches(path: str, settings: TileSettings, skips: Skips) -> Iterator[Found]:
    """Find a data set's patches, of one split or of all.

    Parameters
    ----------
    path : str
        The data set's directory.
    settings : TileSettings
        As `settle` gives them.
    skips : Skips
        Asked about patches whose files or labels are missing.

    Yields
    ------
    Found
        In the order of the split's list; of folders and of patches without a list, sorted. Their properties are
        ``labels`` and ``split``, and where the data set tells them ``datetime``, or with ``None`` for it
        ``start_datetime`` and ``end_datetime``.

    Raises
    ------
    RasterError
        A file that lists the patches is missing, or holds something else.
    """
    if not Path(path).is_dir():
        raise RasterError("is not a directory, as --dataset takes", path)
    assert settings.dataset is not None
    yield from ARCHIVES[settings.dataset].find(Path(path), settings, skips)


# BigEarthNet ---------------------------------------------------------------------------------------------------------


def _bigearthnet(root: Path, settings: TileSettings, skips: Skips) -> Iterator[Found]:
    """BigEarthNet-S2 v1.0, or v2 where there is a ``metadata.parquet``."""
    newer = (root / "metadata.parquet").is_file()
    left_out = 0
    for directory, split, labels in _listed_2(root, settings) if newer else _listed_1(root, settings):
        try:
            when: str | None
            if labels is None:
                labels, when = _metadata_1(directory)
                labels = _labels_1(labels, directory, settings.classes)
            else:
                when = SENSORS["sentinel2-l2a"].datetime_of(directory.name)
            if not labels:
                left_out += 1
                continue
            source = _bands_of(directory, settings, _BIGEARTHNET_2 if newer else _BIGEARTHNET_1)
        except RasterError as error:
            skips(error)
            continue
        properties = {"datetime": when, "labels": labels, **({"split": split} if split else {})}
        yield Found(directory.name, source, directory.parent.name, properties)
    if left_out:
        classes = 19 if newer else settings.classes or 43
        log.warning("%d patches have none of the %d classes, and are left out", left_out, classes)


def _listed_1(root: Path, settings: TileSettings) -> Iterator[tuple[Path, str | None, None]]:
    """List v1.0: patches of a split in its list's order, or all directories that are there."""
    patches = root / "BigEarthNet-v1.0"
    patches = patches if patches.is_dir() else root
    if settings.split is None:
        found = sorted(file.parent for file in patches.glob("*/*_labels_metadata.json"))
        if not found:
            raise RasterError(f"holds no patch of BigEarthNet; they are in {_BIGEARTHNET_1}", str(patches))
        yield from ((directory, None, None) for directory in found)
        return
    # as published, and as torchgeo saves it
    lists = [root / f"{settings.split}.csv", root / f"bigearthnet-{settings.split}.csv"]
    listed = next((file for file in lists if file.is_file()), lists[0])
    for row in _rows(listed, _BIGEARTHNET_1_SPLITS):
        yield patches / _below(row[0].strip(), listed), settings.split, None


def _listed_2(root: Path, settings: TileSettings) -> Iterator[tuple[Path, str, list[str]]]:
    """List v2: the rows of ``metadata.parquet``, patches below the directory of their product."""
    import pyarrow
    import pyarrow.parquet

    if settings.classes == 43:
        raise UsageError("BigEarthNet v2 has 19 classes, and v1.0 has 43", str(root))
    path = root / "metadata.parquet"
    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(columns=["patch_id", "labels", "split"])
        for row in (row for batch in batches for row in batch.to_pylist()):
            name, labels = str(row["patch_id"]), list(row["labels"] or ())
            split = "val" if row["split"] == "validation" else row["split"]
            if settings.split in (None, split):
                yield root / "BigEarthNet-S2" / _below(name.rsplit("_", 2)[0], path) / name, split, labels
    except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise RasterError(f"cannot be read: {error}; it is at {_BIGEARTHNET_2}", str(path)) from None


def _metadata_1(directory: Path) -> tuple[list[str], str]:
    """Read a patch's labels and its time of acquisition."""
    path = directory / f"{directory.name}_labels_metadata.json"
    try:
        facts = orjson.loads(path.read_bytes())
        labels, when = facts["labels"], parse_datetime(facts["acquisition_date"])
    except OSError:
        raise RasterError(f"is missing; it belongs to {_BIGEARTHNET_1}", str(path)) from None
    except (orjson.JSONDecodeError, KeyError, TypeError, UsageError) as error:
        raise RasterError(f"does not tell labels and acquisition_date: {error!r}", str(path)) from None
    if not isinstance(labels, list):
        raise RasterError("has labels that are not a list", str(path))
    return labels, when


def _labels_1(labels: list[str], directory: Path, classes: int | None) -> list[str]:
    """Check v1.0's labels, and translate them to the 19 classes where these are asked for."""
    unknown = [label for label in labels if label not in _OF_43 and label not in WITHOUT_19]
    if unknown:
        raise RasterError(f"has the label {unknown[0]!r}, which is none of the 43", str(directory))
    if classes != 19:
        return labels
    return list(dict.fromkeys(_OF_43[label] for label in labels if label in _OF_43))


def _bands_of(directory: Path, settings: TileSettings, download: str) -> dict[str, str]:
    """Name a patch's files by band, and make sure that they are there."""
    product = {common: band for band, common in SENSORS["sentinel2-l2a"].bands.items()}
    source = {}
    for common in _wanted(settings, product):
        file = directory / f"{directory.name}_{product[common]}.tif"
        if not file.is_file():
            raise RasterError(f"is missing; it belongs to {download}", str(file))
        source[common] = str(file)
    return source


def _wanted(settings: TileSettings, known: dict[str, Any]) -> list[str]:
    """Choose bands: those that the user wants, else all."""
    unknown = [band for band in settings.bands or () if band not in known]
    if unknown:
        raise UsageError(f"{settings.dataset} has no band {unknown[0]} (has {' '.join(known)})")
    return list(settings.bands or known)


# ForestNet -----------------------------------------------------------------------------------------------------------

_PICTURES = _VISIBLE, _INFRARED = "visible/composite.png", "infrared/composite.npy"
_COMPOSITE = {
    **{band: (_VISIBLE, index) for band, index in (("blue", 3), ("green", 2), ("red", 1))},
    **{band: (_INFRARED, index) for index, band in enumerate(("nir08", "swir16", "swir22"), 1)},
}


def _forestnet(root: Path, settings: TileSettings, skips: Skips) -> Iterator[Found]:
    """ForestNet: composites of Landsat 8 around the places of forest loss, red, green and blue apart from infrared."""
    column = "merged_label" if settings.classes == 4 else "label"
    bands = _wanted(settings, _COMPOSITE)
    for split in [settings.split] if settings.split else SPLITS:
        rows = _rows(root / f"{split}.csv", _FORESTNET)
        names = next(rows)
        for line, row in enumerate(rows, 2):
            try:
                facts = dict(zip(names, row, strict=True))
                lon, lat, year = float(facts["longitude"]), float(facts["latitude"]), int(facts["year"])
                example, label = _below(facts["example_path"], root / f"{split}.csv"), facts[column]
                if not (abs(lon) <= 180 and abs(lat) <= 90 and 1900 <= year <= 2100 and label):
                    raise ValueError(f"{lon}, {lat}, {year}, {label!r}")
            except RasterError as error:
                skips(error)
                continue
            except (KeyError, ValueError) as error:
                skips(RasterError(f"is no example of ForestNet: {error!r}", f"{root}/{split}.csv:{line}"))
                continue
            images = root / example / "images"
            missing = [images / file for file in _PICTURES if not (images / file).is_file()]
            if missing:
                skips(RasterError(f"is missing; it belongs to {_FORESTNET}", str(missing[0])))
                continue
            # the year is that of the loss; the composite is of the years after it
            properties = {
                "labels": [label],
                "split": split,
                "datetime": None,
                "start_datetime": f"{year}-01-01T00:00:00Z",
                "end_datetime": f"{year}-12-31T23:59:59Z",
            }
            parts = {band: _COMPOSITE[band] for band in bands}
            source = {band: f"vrt://{images}/{file}?bands={index}" for band, (file, index) in parts.items()}
            place = {"type": "Point", "coordinates": [lon, lat]}
            yield Found(Path(example).as_posix(), source, root.name, properties, place)


# Folders -------------------------------------------------------------------------------------------------------------


def _folders(root: Path, settings: TileSettings, skips: Skips) -> Iterator[Found]:
    """Folders of one class each, such as EuroSAT's, with splits drawn in each class."""
    drawn = _draw(root, settings) if settings.split else {}
    for found in find_scenes([str(root)], settings):
        if Path(found.path).parent == root:
            skips(RasterError(f"lies beside the folders of the classes, in {root}", found.path))
            continue
        split = next(drawn[found.parent]) if drawn else None
        if split == settings.split:
            properties = {"labels": [found.parent], **({"split": split} if split else {})}
            yield dataclasses.replace(found, properties=properties)


def _draw(root: Path, settings: TileSettings) -> dict[str, Iterator[str]]:
    """Draw a split for each scene of each class, in the order in which they are found."""
    counts = Counter(found.parent for found in find_scenes([str(root)], settings) if Path(found.path).parent != root)
    generator = np.random.RandomState(settings.seed)
    drawn: dict[str, Iterator[str]] = {}
    for name, count in sorted(counts.items()):
        n_drawn = round(DRAWN_SHARE * count)
        splits = np.repeat(["test", "val", "train"], [n_drawn, n_drawn, count - 2 * n_drawn])
        drawn[name] = map(str, generator.permutation(splits))
    return drawn


def _below(name: str, listed: Path) -> str:
    """Check a path of a list: it leads to below the data set, and so do the names that are made of it."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise RasterError(f"lists {name!r}, which does not lie in the data set", str(listed))
    return name


def _rows(path: Path, download: str) -> Iterator[list[str]]:
    """Read a CSV file's rows, but empty ones; at least one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            row = None
            for row in filter(None, csv.reader(file)):
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise RasterError(f"{reason}; it is at {download}", str(path)) from None
    if row is None:
        raise RasterError(f"is empty; it is at {download}", str(path))


@dataclasses.dataclass(frozen=True)
class Archive:
    """A data set.

    Attributes
    ----------
    find : callable
        (directory, settings, skips) -> its patches.
    classes : tuple of int
        The numbers of classes its labels come in.
    decides : dict
        Settings that are not the user's to choose.
    """

    find: Callable[[Path, TileSettings, Skips], Iterator[Found]]
    classes: tuple[int, ...]
    decides: dict[str, Any]


_OWN = {"sensor": None, "offset": 0.0, "datetime": None, "labels_from_parent": False, "per_band": False}
ARCHIVES = {
    # not the sensor: its products have 0 for nodata, and these files do not say so
    "bigearthnet": Archive(_bigearthnet, (43, 19), {**_OWN, "scale": 1.0}),
    "forestnet": Archive(_forestnet, (12, 4), {**_OWN, "scale": 10000 / 255}),
    "folders": Archive(_folders, (), {"labels_from_parent": False, "per_band": False}),
}

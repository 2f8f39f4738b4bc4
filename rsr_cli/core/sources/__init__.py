"""Sources: what is at a path, as scenes of one or several files, which nothing here opens.

A new dataset is a module with a subclass of `Dataset` and an entry in `DATASETS`.
"""

from rsr_cli.core.sources.base import Dataset, Found, Source
from rsr_cli.core.sources.bigearthnet import BigEarthNet
from rsr_cli.core.sources.files import Listed, Rasters
from rsr_cli.core.sources.folders import Folders
from rsr_cli.core.sources.forestnet import ForestNet
from rsr_cli.core.sources.products import Products
from rsr_cli.core.sources.stac import Stac

#: Name, as in ``rsr tile --dataset`` -> dataset.
DATASETS: dict[str, type[Dataset]] = {dataset.name: dataset for dataset in (BigEarthNet, Folders, ForestNet)}

__all__ = ["DATASETS", "Dataset", "Found", "Listed", "Products", "Rasters", "Source", "Stac"]

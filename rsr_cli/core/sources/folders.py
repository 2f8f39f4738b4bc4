"""One folder per class, such as EuroSAT's, with splits drawn in each class."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import RasterError
from rsr_cli.core.sources.base import Dataset
from rsr_cli.core.sources.files import Rasters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.errors import Skips
    from rsr_cli.core.sources.base import Found

#: Share of each class in val and in test; the rest is train.
DRAWN_SHARE = 0.2


class Folders(Dataset):
    """Rasters in one folder per class; the folder's name is the label."""

    name = "folders"
    title = "one folder per class"
    draws_splits = True

    def patches(self, root: Path, skips: Skips) -> Iterator[Found]:
        """Find the rasters in the folders; see `Dataset.patches`."""
        drawn = self._draw(root, skips) if self.split else {}
        for found in Rasters().find(str(root), skips):
            if Path(found.path).parent == root:
                skips(RasterError(f"is beside the folders of the classes, in {root}", found.path))
                continue
            split = next(drawn[found.parent]) if drawn else None
            if split == self.split:
                properties = {"labels": [found.parent], **({"split": split} if split else {})}
                yield dataclasses.replace(found, properties=properties)

    def _draw(self, root: Path, skips: Skips) -> dict[str, Iterator[str]]:
        """Draw a split for each raster of each class, in the order in which they are found."""
        import numpy as np

        counts = Counter(found.parent for found in Rasters().find(str(root), skips) if Path(found.path).parent != root)
        generator = np.random.RandomState(self.seed)
        drawn: dict[str, Iterator[str]] = {}
        for name, count in sorted(counts.items()):
            n_drawn = round(DRAWN_SHARE * count)
            splits = np.repeat(["test", "val", "train"], [n_drawn, n_drawn, count - 2 * n_drawn])
            drawn[name] = map(str, generator.permutation(splits))
        return drawn

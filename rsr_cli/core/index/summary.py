"""What is in an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.index.manifest import SEGMENTS
from rsr_cli.core.index.reading import Index
from rsr_cli.core.inputs import map_array
from rsr_cli.core.records.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path

#: Rows of the mapped columns that are read at once.
ROWS_AT_ONCE = 1 << 20


def summarize(path: Path) -> dict[str, Any]:
    """Return what is in an index, as `Summary.as_dict` does, and how it was made.

    Raises
    ------
    IndexFormatError
        The directory is not an index, or is damaged.
    """
    with Index(path) as index:
        manifest, summary = index.manifest, Summary(records=index.manifest.count, gsd=index.manifest.gsd)
        for segment in manifest.segments:
            folder = path / SEGMENTS / segment.name
            boxes, times, labels = (map_array(folder / f"{name}.npy") for name in ("bbox", "times", "labels"))
            for first in range(0, len(boxes), ROWS_AT_ONCE):
                rows = slice(first, first + ROWS_AT_ONCE)
                summary.widen(boxes[rows], times[rows])
            counts = np.bincount(labels).tolist() if len(labels) else []
            names = index.labels()
            if len(counts) > len(names):
                raise IndexFormatError("is damaged: it has labels without a name", str(path), remedy="rebuild")
            summary.labels.update({name: count for name, count in zip(names, counts, strict=False) if count})
        if manifest.space:
            stated = orjson.dumps(manifest.space.as_property()).decode()
            summary.spaces[manifest.space.kind, stated] = manifest.count
        size = sum(file["size"] for segment in manifest.segments for file in segment.files.values())
        made = {"metric": manifest.metric, "generation": manifest.generation, "made_with": manifest.made_with}
        return {"type": "index", "bytes": size, **summary.as_dict(), **made, "arguments": manifest.arguments}

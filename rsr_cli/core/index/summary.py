"""What is in an index."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from rsr_cli.core.index.reading import Index
from rsr_cli.core.index.weights import by_weights
from rsr_cli.core.records.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rsr_cli.core.index.partitions import Recall

#: Rows of the mapped columns that are read at once.
ROWS_AT_ONCE = 1 << 20
#: The number of hits whose recall is stated.
HITS = 20


def summarize(path: Path) -> dict[str, Any]:
    """Return what is in an index, as `Summary.as_dict` does, and how it was made.

    Raises
    ------
    IndexFormatError
        The directory is not an index, or is damaged.
    """
    with Index(path) as index:
        manifest = index.manifest
        summary = Summary(records=manifest.count, gsd=manifest.gsd if manifest.count else None)
        for segment in index.segments:
            columns, names = segment.columns, segment.labels()
            counts = np.zeros(len(names), np.int64)
            for first, live in segment.blocks(ROWS_AT_ONCE):
                rows = slice(first, first + len(live))
                summary.widen(columns.boxes[rows][live], columns.times[rows][live])
                counts += np.bincount(columns.labels_of(first, live, len(names))[0], minlength=len(names))
            for name, count in zip(names, counts.tolist(), strict=True):
                if count:
                    summary.labels[name] += count
            segment.close()
        if manifest.space:
            stated = orjson.dumps(manifest.space.as_property()).decode()
            summary.spaces[manifest.space.kind, stated] = manifest.count
        size = sum(segment.size for segment in manifest.segments)
        made = {
            "metric": manifest.metric,
            **({"asymmetric": True} if by_weights(manifest.space) else {}),
            **({"refine": asdict(manifest.refine)} if manifest.refine else {}),
            "generation": manifest.generation,
            "segments": len(manifest.segments),
            "deleted": sum(segment.deleted for segment in manifest.segments),
            "partitions": sum(each.partitions["count"] for each in manifest.segments if each.partitions),
            **_recall([segment.recall for segment in index.segments if segment.recall]),
            "made_with": manifest.made_with,
        }
        return {"type": "index", "bytes": size, **summary.as_dict(), **made, "arguments": manifest.arguments}


def _recall(measured: Sequence[Recall]) -> dict[str, dict[str, float]]:
    """Return the least recall of several segments' partitions by how many are searched, of `HITS` hits or fewer."""
    ks = [k for k in range(1, HITS + 1) if measured and all(k in each.ks for each in measured)]
    if not ks:
        return {}
    first = max(each.probes[0] for each in measured)
    at = [each.ks.index(ks[-1]) for each in measured]

    def least(probe: int) -> float:
        """Return the recall of so many partitions; as it was measured last, if that was of fewer."""
        found = zip(measured, at, strict=True)
        return min(each.recall[bisect_right(each.probes, probe) - 1][column] for each, column in found)

    probes = sorted({probe for each in measured for probe in each.probes})
    return {f"recall@{ks[-1]}": {str(probe): least(probe) for probe in probes if probe >= first}}

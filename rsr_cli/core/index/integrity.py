"""Checking the files of an index against the sizes and checksums that its manifest states."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.files import reason
from rsr_cli.core.index import generations
from rsr_cli.core.index.manifest import SEGMENTS
from rsr_cli.core.index.reading import opened_segments
from rsr_cli.core.inputs import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK_BYTES = 1 << 20


def check(path: Path, report: Callable[[IndexFormatError], None]) -> Iterator[int]:
    """Read all files of an index, and report each that is not as it was written, or not what others say it is.

    Each row must be in one partition, and `Scan` made of the codes.

    Parameters
    ----------
    path : Path
        The directory.
    report : callable
        Takes what is wrong with a file.

    Yields
    ------
    int
        Bytes read since the last one.

    Raises
    ------
    IndexFormatError
        The directory is not an index, or its manifest is damaged.
    """
    manifest, held = generations.hold(path)
    damaged: list[IndexFormatError] = []

    def note(error: IndexFormatError) -> None:
        damaged.append(error)
        report(error)

    with held:
        for segment in manifest.segments:
            for name, stated in segment.files.items():
                place = path / SEGMENTS / segment.name / name
                digest, size = hashlib.sha256(), 0
                try:
                    with open_regular(place) as file:
                        while block := file.read(BLOCK_BYTES):
                            digest.update(block)
                            size += len(block)
                            yield len(block)
                except FileNotFoundError:
                    note(IndexFormatError("is missing", str(place), remedy="rebuild"))
                except OSError as error:
                    note(IndexFormatError(f"cannot be read: {reason(error)}", str(place), remedy="rebuild"))
                else:
                    if size != stated["size"]:
                        what = f"it has {size} bytes and the manifest {stated['size']}"
                        note(IndexFormatError(f"is damaged: {what}", str(place), remedy="rebuild"))
                    elif digest.hexdigest() != stated.get("sha256"):
                        what = "is damaged: it has not the sha256 that the manifest states"
                        note(IndexFormatError(what, str(place), remedy="rebuild"))
        if damaged:
            return
        with opened_segments(path / SEGMENTS, manifest) as segments:
            for opened in segments:
                try:
                    if opened.scan is not None:
                        opened.scan.check(opened.vectors)
                    if opened.recall is not None:
                        opened.partitions.check_rows()
                except IndexFormatError as error:
                    report(error)

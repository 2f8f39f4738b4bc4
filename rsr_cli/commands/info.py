"""``rsr info``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from rsr_cli import options
from rsr_cli.core import files
from rsr_cli.core.errors import counted, visible
from rsr_cli.core.forms import TABLE
from rsr_cli.core.inputs import input_size
from rsr_cli.core.progress import Progress
from rsr_cli.core.records import parts, streams
from rsr_cli.core.records.foreign import is_index

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsr_cli.core.errors import Skips

#: Most labels that a table names.
MOST_LABELS = 10
UNITS = ("bytes", "kB", "MB", "GB", "TB")


@click.command(cls=options.Command)
@click.argument("path", metavar="FILE|INDEX", type=click.Path(allow_dash=True))
@options.output
@options.overwrite
@click.option("--json", "as_json", envvar="RSR_INFO_JSON", is_flag=True, help="Write one JSON object.")
@options.allow_missing
@options.keep_going
@options.verbosity
def info(path: str, output: str | None, overwrite: bool, as_json: bool, allow_missing: bool, skips: Skips) -> None:
    """Describe an index or a file of records.

    Prints how many records there are, how large they are, where and when they are from, the vector spaces of their
    embeddings or codes, and their labels; of an index with partitions, the recall by the number that is searched. Of
    tables without a known column of vectors, it prints those that may be meant. A file is read whole; of an index, its
    columns are.
    """
    if is_index(path):
        from rsr_cli.core.index.summary import summarize

        found = summarize(Path(path))
    else:
        from rsr_cli.core.records.summary import Summary

        summary = Summary()
        skips.instead["id-column"] = "rename-id", {}
        with Progress("records") as progress:
            for batch in streams.read([path], skips, progress=progress, allow_missing=allow_missing):
                summary.add(batch, skips)
                progress.update(len(batch))
        if path != "-" and parts.is_parts(path):
            sizes = parts.sizes(path)
        else:
            size = None if path == "-" else input_size(path)
            sizes = {} if size is None else {"bytes": size}
        found = {"type": "records", **sizes, **summary.as_dict()}
    with files.Output(output, TABLE, overwrite=overwrite) as out:
        out.write([orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)] if as_json else _table(found))


def _table(found: dict[str, Any]) -> Iterator[bytes]:
    """Lay out what was found, a line per fact."""
    facts = {name: value for name, value in found.items() if name not in ("type", "spaces", "candidates", "labels")}
    lines = [(name, _shown(name, value)) for name, value in facts.items()]
    for space in found.get("spaces", []):
        stated = {name: value for name, value in space.items() if name not in ("kind", "records")}
        known = [f"{name} {_shown('', value)}" for name, value in stated.items()]
        text = ", ".join(known if "fingerprint" in stated else ["of no stated space", *known])
        some = "" if space["records"] == found["records"] else f" ({counted(space['records'], 'record')})"
        lines.append((space["kind"], text + some))
    candidates = [
        f"{each['column']} (dim {each['dim']}, dtype {each['dtype']})" for each in found.get("candidates", [])
    ]
    if candidates:
        lines.append(("vectors", f"{' or '.join(candidates)}; pass --vector-column to rsr index"))
    labels = found.get("labels", {})
    if labels:
        named = [f"{name} {count:,}" for name, count in list(labels.items())[:MOST_LABELS]]
        more = f", and {len(labels) - len(named)} more" if len(labels) > len(named) else ""
        lines.append(("labels", f"{len(labels):,}: {', '.join(named)}{more}"))
    width = max(len(name) for name, _ in lines)
    return (f"{name:<{width}}  {visible(text)}\n".encode() for name, text in lines)


def _shown(name: str, value: Any) -> str:
    """Return a value as text."""
    if name == "bytes":
        unit = min(len(UNITS) - 1, (len(f"{float(f'{value:.3g}'):.0f}") - 1) // 3)
        return f"{value / 1000**unit:,.3g} {UNITS[unit]}"
    if name == "interval":
        return " to ".join(dict.fromkeys(value))
    if name == "gsd":
        return f"{' to '.join(f'{number:g}' for number in dict.fromkeys(value))} m"
    if name == "bbox":
        return ", ".join(f"{side:.7g}" for side in value)
    if name == "arguments":
        return shlex.join(value)
    if name.startswith("recall@"):
        return f"probe {', '.join(f'{probe}: {recall}' for probe, recall in value.items())}"
    if value is True:
        return "yes"
    if name == "" and isinstance(value, dict):  # a transform
        return f"{value.get('method')} {value.get('fit')}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Which column of a table that others made is what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rsr_cli.core.errors import UsageError
from rsr_cli.core.records.arrow import RESERVED, is_list, is_property

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rsr_cli.core.records.tables import TableSettings

#: Columns of vectors and of ids in published tables: Clay, Earth Index, Major TOM, terratorch, and plain ones.
VECTORS = ("embedding", "embeddings")
IDS = ("id", "chips_id", "tile_id", "unique_id", "file_id")
#: Columns of times, by which `datetime` is stated where no column has that name.
TIMES = ("timestamp", "time", "date")


@dataclass(frozen=True)
class Roles:
    """Which column of a table is what.

    Attributes
    ----------
    vector, id, geometry, time : str or None
        The columns, as far as there are any.
    properties : dict of str to pyarrow.DataType
        The others that records can hold.
    left_out : tuple of str
        Those that they cannot.
    """

    vector: str | None
    id: str | None
    geometry: str | None
    time: str | None
    properties: dict[str, pa.DataType] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @classmethod
    def of_schema(cls, schema: pa.Schema, geometry: str | None, settings: TableSettings, path: str) -> Roles:
        """Find them by their known names, or by those that the user states.

        Raises
        ------
        UsageError
            The user names a column that is not there or holds no vectors, or several columns may be meant.
        """
        types = {column.name: column.type for column in schema}
        vector = _chosen(settings.vector_column, types, path) or _only(
            [name for name in VECTORS if name in types and is_vector(types[name])], path, "vector-column"
        )
        if settings.vector_column and not is_vector(types[settings.vector_column]):
            found = types[settings.vector_column]
            raise UsageError(f"its column {settings.vector_column} has no vectors but {found}", path)
        known = next((name for name in IDS if name in types and is_id(types[name])), None)
        ident = _chosen(settings.id_column, types, path) or known
        if ident and not is_id(types[ident]):
            raise UsageError(f"its column {ident} has no ids but {types[ident]}", path)
        others = {name: type_ for name, type_ in types.items() if name not in (vector, ident, geometry, "bbox")}
        left_out = [name for name, type_ in others.items() if name in RESERVED or not is_property(type_)]
        kept = {name: type_ for name, type_ in others.items() if name not in left_out}
        time = None if "datetime" in types else next((name for name in TIMES if name in kept), None)
        return cls(vector, ident, geometry, time, kept, tuple(left_out))


def is_vector(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are lists of numbers, or lists of such."""
    inner = type_
    while is_list(inner):
        inner = inner.value_type
    return inner is not type_ and (pa.types.is_floating(inner) or inner == pa.int8())


def is_id(type_: pa.DataType) -> bool:
    """Return whether values of an Arrow type are texts or numbers."""
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return any(check(type_) for check in (*checks, pa.types.is_decimal, pa.types.is_dictionary))


def _chosen(name: str | None, types: dict[str, pa.DataType], path: str) -> str | None:
    if name is not None and name not in types:
        raise UsageError(f"has no column {name}; its columns are {', '.join(types)}", path)
    return name


def _only(names: list[str], path: str, remedy: str) -> str | None:
    if len(names) > 1:
        raise UsageError(f"has several columns of vectors: {', '.join(names)}", path, remedy=remedy)
    return names[0] if names else None


def repeat_of(columns: Iterable[pa.Array]) -> bool:
    """Return whether a value occurs twice in the arrays of a column."""
    texts = (map(str, column.to_pylist()) for column in columns)  # as the hashes of -1 and -2 are one
    hashes = [np.array(list(map(hash, some)), np.int64) for some in texts]
    every = np.concatenate(hashes) if hashes else np.empty(0, np.int64)
    return len(np.unique(every)) < len(every)

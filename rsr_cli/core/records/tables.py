"""What a user states about tables of embeddings that others made, which do not state their vector space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsr_cli.core.errors import RsrError
from rsr_cli.core.records.space import Space, fingerprint


@dataclass(frozen=True)
class TableSettings:
    """What a user states about embeddings that others made.

    Attributes
    ----------
    space : str, optional
        Name of their vector space; vectors of the same name and size may be compared.
    vector_column, id_column : str, optional
        The columns of vectors and ids, if they have none of the known names; ``A00..A63`` are columns of a dimension
        each.
    root : str
        The directory that the user named, if the file is below one.
    makes_ids : bool
        Whether the ids of the column are not used, as they are missing or repeat.
    """

    space: str | None = None
    vector_column: str | None = None
    id_column: str | None = None
    root: str = ""
    makes_ids: bool = False


NOTHING_STATED = TableSettings()


def declared_space(settings: TableSettings, metadata: dict[str, Any], dim: int, path: str) -> Space:
    """Return the space of embeddings that do not state one.

    Parameters
    ----------
    settings : TableSettings
        Its ``space`` counts.
    metadata : dict
        What the file's footer states as ``emb``: the model with its ``id`` and ``version``.
    dim : int
        Of the vectors, which are read as float32 whatever they are.
    path : str
        The file, for messages.

    Raises
    ------
    RsrError
        Neither the user nor the file states a name.
    """
    name = settings.space or model_of(metadata)
    if name is None:
        raise RsrError("does not state the vector space of its embeddings", path, remedy="space")
    return Space("embedding", dim, "float32", fingerprint({"space": name, "dim": dim}), {"model": name})


def model_of(metadata: dict[str, Any]) -> str | None:
    """Return the name of the model that a footer states, such as ``dinov2_vits14_softcon@2.0.0``."""
    model = metadata.get("model")
    if isinstance(model, str):
        return model
    if not isinstance(model, dict) or not isinstance(model.get("id"), str):
        return None
    version = model.get("version")
    return f"{model['id']}@{version}" if version else str(model["id"])

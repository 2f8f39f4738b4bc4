"""What a user states about tables of embeddings that others made, which do not state their vector space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsr_cli.core.errors import RecordError, RsrError, shown
from rsr_cli.core.records.space import Space, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def quantization_in(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what a footer states of int8 vectors, an object with ``scale`` and ``offset``, an empty one if nothing."""
    inner = metadata.get("embedding")
    for place in (metadata, inner if isinstance(inner, dict) else {}):
        found = place.get("emb:quantization", place.get("quantization"))
        if isinstance(found, dict):
            return found
    return {}


def dequantized(values: NDArray[Any], stated: dict[str, Any]) -> NDArray[Any]:
    """Return what int8 vectors (..., dim) stand for: value * scale + offset, float32, as STAC's ``emb:quantization``.

    Parameters
    ----------
    values : numpy.ndarray
        The int8 vectors.
    stated : dict
        ``scale`` and ``offset``, a number or one per dimension each; 1 and 0 if they are missing.

    Raises
    ------
    RecordError
        They are something else.
    """
    import numpy as np

    factors = []
    for name, default in (("scale", 1), ("offset", 0)):
        found = stated.get(name)
        numbers = [default] if found is None else found if isinstance(found, list) else [found]
        if not {*map(type, numbers)} <= {int, float} or len(numbers) not in (1, values.shape[-1]):
            what = f"neither a number nor one for each of {values.shape[-1]} dimensions"
            raise RecordError(f"the {name} of its int8 embedding is {what}: {shown(found)}")
        factors.append(np.array(numbers, np.float64))
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused
        return (values * factors[0] + factors[1]).astype(np.float32)

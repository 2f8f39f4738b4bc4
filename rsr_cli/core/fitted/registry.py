"""The registry of what can be fitted: a method is one entry here. It imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitMethod:
    """A way to learn from a sample of embeddings.

    Attributes
    ----------
    summary : str
        Its line in the help.
    size : str or None
        What it needs the number of: ``dims`` of what it makes, or ``bits`` of a code; ``None`` if that is not chosen.
    code : str
        Method of `rsr_cli.core.codes.registry` that makes codes of it if none is given.
    is_code : bool
        Whether that method needs what was learned, which is no transform.
    """

    summary: str
    size: str | None = None
    code: str = "rotated"
    is_code: bool = False


#: Name -> method.
FIT_METHODS = {
    "mean": FitMethod("centre on the mean"),
    "median": FitMethod("centre each dimension on its median", code="sign"),
    "pca": FitMethod("centre, and turn to the principal components", size="dims"),
    "whiten": FitMethod("principal components, scaled to unit variance", size="dims"),
    "itq": FitMethod("principal components, turned so that their signs lose least", size="bits", code="sign"),
    "pq": FitMethod("product quantization, a byte per part of the dimensions", size="bits", code="pq", is_code=True),
    "rabitq": FitMethod("the centre of RaBitQ", code="rabitq", is_code=True),
}

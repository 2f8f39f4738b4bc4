"""What the registry states about a model, and what every encoder does."""

from __future__ import annotations

import importlib.util
import logging
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rsr_cli.core.encoders import specification, statistics
from rsr_cli.core.encoders.pooling import POOLS
from rsr_cli.core.encoders.specification import EncoderSettings
from rsr_cli.core.errors import UsageError, counted
from rsr_cli.core.records.space import Space, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import torch

    from rsr_cli.core.encoders.mean import Mean
    from rsr_cli.core.encoders.run import Embedder
    from rsr_cli.core.encoders.statistics import Statistics
    from rsr_cli.core.encoders.weights import Published
    from rsr_cli.core.errors import Skips

log = logging.getLogger("rsr")


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


#: Maximum size to which tiles are resized.
MAX_INPUT_PX = 1 << 14
#: Memory that the pixels of a tile or a batch may take, in bytes; a model takes several times as much.
MAX_INPUT_BYTES = 512 << 20
#: Memory in bytes that the float32 pixels of tiles that are prepared together may take.
TOGETHER_BYTES = 64 << 20
#: Field of `EncoderSettings` -> what brings a user's value into the form of the defaults.
_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "pool": str,
    "layer": int,
    "size_px": int,
    "seed": int,
    "bands": tuple,
    "mean": _numbers,
    "std": _numbers,
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model and its settings: in the registry the defaults, after `adjust` a user's choice.

    Attributes
    ----------
    name : str
        The name that users type.
    encoder : str
        The class that implements it, as ``package.module:Class``, imported only by `load`.
    dim : int or None
        Vector length; ``None`` if only the loaded network states it.
    dims : tuple of int
        Vector length per layer, if it differs.
    bands : tuple of str
        STAC common names in the model's input order.
    statistics : Statistics or None
        Mean and standard deviation per band, in reflectance x 10000.
    any_bands : bool
        Whether the model reads other bands, and another number of them.
    size_px : int or None
        Height and width in pixels to which tiles are resized; ``None`` for no resizing.
    pool : str or None
        One of `POOLS`; ``None`` for a model that takes no pool.
    layers : int or None
        Number of layers to choose from; ``None`` for a model that takes no layer, 0 if only the loaded network states
        it.
    layer : int
        The layer to pool.
    seed : int or None
        Seed of random weights; ``None`` for a model that takes no seed.
    needs_weights : bool
        Whether the model reads a checkpoint.
    takes_space : bool
        Whether the model reads pixels that are embeddings, of any number of bands: it then takes the name of their
        vector space, and no other setting.
    weights : HubFile, TorchFile, PackageFile or None
        The published checkpoint, if any.
    required : tuple of str
        Fields of `EncoderSettings` that have no default.
    options : mapping of str
        Further arguments of the class.
    libraries : tuple of str
        The packages that the class imports and that a search-only install lacks.
    changes : EncoderSettings or None
        The settings that are not the model's defaults; set by `adjust`.
    """

    name: str
    encoder: str
    dim: int | None
    dims: tuple[int, ...] = ()
    bands: tuple[str, ...] = ()
    statistics: Statistics | None = None
    any_bands: bool = False
    size_px: int | None = None
    pool: str | None = None
    layers: int | None = None
    layer: int = -1
    seed: int | None = None
    needs_weights: bool = True
    takes_space: bool = False
    weights: Published | None = None
    required: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    libraries: tuple[str, ...] = ("torch",)
    changes: EncoderSettings | None = None

    def adjust(self, settings: EncoderSettings) -> Model:
        """Return the model with a user's settings in place of its defaults.

        A user's bands may stand in for the model's, ``nir`` for ``nir08``, but not in another order.

        Parameters
        ----------
        settings : EncoderSettings
            ``model`` may be another spelling of the name.

        Returns
        -------
        Model
            ``changes`` has the settings that are not the model's defaults.

        Raises
        ------
        UsageError
            A setting does not suit the model.
        """
        self._check_taken(settings)
        if self.takes_space:
            return replace(self, changes=settings)
        given = {
            name: convert(getattr(settings, name))
            for name, convert in _SETTINGS.items()
            if getattr(settings, name) is not None
        }
        defaults = self._defaults(given.get("bands", self.bands))
        chosen = replace(defaults, **given)
        if self.layers:
            chosen = replace(chosen, layer=choose_layer(self.name, chosen.layer, self.layers))
        bands, chosen_statistics = self._check(chosen)
        same = [name for name in _SETTINGS if getattr(chosen, name) == getattr(defaults, name)]
        unstated: dict[str, Any] = {name: None for name in same if name not in self.required}
        return replace(
            self,
            dim=self.dims[chosen.layer] if self.dims and chosen.layer is not None else self.dim,
            bands=bands,
            statistics=chosen_statistics,
            size_px=chosen.size_px,
            pool=chosen.pool,
            layer=-1 if chosen.layer is None else chosen.layer,
            seed=chosen.seed,
            changes=replace(chosen, **unstated),
        )

    def _check_taken(self, settings: EncoderSettings) -> None:
        """Check that required settings are there, and none that the model does not take."""
        missing = [name.removesuffix("_px") for name in self.required if getattr(settings, name) is None]
        if missing:
            raise UsageError(f"{self.name} has no default for {', '.join(missing)}", remedy="no-defaults")
        takes = {
            "weights": self.needs_weights,
            "pool": self.pool is not None,
            "layer": self.layers is not None,
            "seed": self.seed is not None,
            **dict.fromkeys(("bands", "size_px", "mean", "std"), not self.takes_space),
            "space": self.takes_space,
        }
        for name, taken in takes.items():
            if not taken and getattr(settings, name) is not None:
                raise UsageError(f"{self.name} takes no {name.removesuffix('_px')}")
        if self.any_bands and (settings.mean is None) != (settings.std is None):
            raise UsageError(f"{self.name} takes mean and std together", remedy="statistics")

    def _defaults(self, bands: tuple[str, ...]) -> EncoderSettings:
        """Return the default of every setting, with the statistics of the bands in use."""
        standard = statistics.of_bands(bands) if self.any_bands and bands != self.bands else self.statistics
        return EncoderSettings(
            self.name,
            pool=self.pool,
            layer=self.layers - 1 if self.layers else None,
            size_px=self.size_px,
            seed=self.seed,
            bands=self.bands,
            mean=standard.mean if standard else None,
            std=standard.std if standard else None,
        )

    def _check(self, chosen: EncoderSettings) -> tuple[tuple[str, ...], Statistics]:
        """Check the value of each setting; return bands and statistics."""
        bands = chosen.bands or ()
        if not self.any_bands:
            if len(bands) != len(self.bands):
                raise UsageError(f"{self.name} reads {counted(len(self.bands), 'band')}, not {len(bands)}")
            if any(given != own and given in self.bands for given, own in zip(bands, self.bands, strict=True)):
                raise UsageError(f"{self.name} reads its bands in this order: {', '.join(self.bands)}")
        if chosen.mean is None or chosen.std is None:
            unknown = [band for band in bands if band not in statistics.BY_BAND]
            raise UsageError(f"{self.name} has no statistics of {', '.join(unknown)}", remedy="statistics")
        statistics.check_statistics(self.name, len(bands), chosen.mean, chosen.std)
        if chosen.pool not in (None, *POOLS):
            raise UsageError(f"unknown pooling {chosen.pool}; choose from {', '.join(POOLS)}")
        if chosen.size_px is not None and not 1 <= chosen.size_px <= MAX_INPUT_PX:
            raise UsageError(f"{self.name} takes a size of 1 to {MAX_INPUT_PX} px, not {chosen.size_px}")
        if 4 * len(bands) * (chosen.size_px or 0) ** 2 > MAX_INPUT_BYTES:
            what = f"{counted(len(bands), 'band')} of {chosen.size_px} x {chosen.size_px} px"
            raise UsageError(f"{what} take more memory than the {MAX_INPUT_BYTES >> 20} MiB of a tile", remedy="size")
        if chosen.seed is not None and not 0 <= chosen.seed < 2**32:
            raise UsageError(f"a seed is 0 to {2**32 - 1}, not {chosen.seed}")
        return bands, statistics.Statistics(chosen.mean, chosen.std)

    def load(self, settings: EncoderSettings) -> Encoder | Mean:
        """Return the encoder for a user's settings, ready to encode on the CPU.

        Raises
        ------
        UsageError
            A setting does not suit the model, or a library is not installed.
        WeightsError
            The weights cannot be found or do not fit the model.
        """
        adjusted = self.adjust(settings)
        require(self.name, *self.libraries)
        encoder: Encoder | Mean = pkgutil.resolve_name(self.encoder)(adjusted, settings.weights, **self.options)
        return encoder


def require(what: str, *libraries: str) -> None:
    """Raise UsageError if a library is not installed, before anything is read or downloaded for its sake."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{what} needs packages that are not installed ({', '.join(missing)})", remedy="install")


def choose_layer(model: str, layer: int | None, count: int) -> int:
    """Return the index from the front of a layer counted as in Python; ``None`` is the last one.

    Raises
    ------
    UsageError
        There is no such layer.
    """
    layer = -1 if layer is None else layer
    if not -count <= layer < count:
        raise UsageError(f"{model} has {count} layers, 0 to {count - 1}, and no layer {layer}")
    return layer % count


@dataclass(frozen=True)
class RunSettings:
    """How tiles are embedded.

    Attributes
    ----------
    device, precision : str, optional
        A user's choice, see `placement.place`.
    usual_precision : str
        The precision if none is chosen.
    batch_size : int, optional
        Tiles per forward pass.
    fill_missing, filled : bool and sequence of str, optional
        As of `run.Embedder`.
    """

    device: str | None = None
    precision: str | None = None
    usual_precision: str = "auto"
    batch_size: int | None = None
    fill_missing: bool = False
    filled: Sequence[str] | None = None


class Encoder(ABC):
    """Maps tiles to vectors. A subclass sets ``module`` and ``facts`` in its ``__init__``.

    Parameters
    ----------
    model : Model
        As `Model.adjust` returns it.

    Attributes
    ----------
    model : Model
        The model with the settings in use.
    name : str
        The model's name.
    bands : tuple of str
        STAC common names in the order of the input's channels.
    mean, std : tuple of float
        One value per band, in reflectance x 10000; the input is ``(reflectance x 10000 - mean) / std``.
    size_px : int or None
        Height and width to which tiles are resized; ``None`` for no resizing.
    dim : int
        Vector length.
    specification : str
        The model's name and every setting that is not its default, as `specification.parse` reads it.
    module : torch.nn.Module
        Moved to the chosen device and precision by `Embedder`.
    facts : dict
        All else that decides the vectors (weights' sha256, pool, layer, seed); part of the recipe.
    """

    dim: int
    module: torch.nn.Module
    facts: dict[str, Any]

    #: Whether vectors that are computed in bfloat16 were seen to be those of float32: cosine above 0.999, and more than
    #: 99.5 % of all signs.
    same_in_bf16: ClassVar[bool] = False
    #: Whether two threads may call ``forward`` at once, because it leaves the module as it is.
    reentrant: ClassVar[bool] = True
    #: Whether ``module`` is a `VisionTransformer`, whose linear layers can be computed in int8.
    quantizable: ClassVar[bool] = False
    #: Record properties, besides the pixels, that ``forward`` takes: ``datetime``, ``location``.
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Model) -> None:
        if model.statistics is None:
            raise ValueError("the model has not been adjusted")
        self.model = model
        self.name = model.name
        self.bands = model.bands
        self.mean, self.std = model.statistics.mean, model.statistics.std
        self.size_px = model.size_px
        self.specification = specification.format(model.changes or EncoderSettings(model.name))
        if model.dim is not None:
            self.dim = model.dim

    @abstractmethod
    def forward(self, pixels: torch.Tensor, valid: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
        """Encode a batch; if the encoder is ``reentrant``, two threads may do so at once.

        Parameters
        ----------
        pixels : torch.Tensor
            float (n, bands, height, width), normalised, on the module's device and in its precision; 0 where a pixel is
            invalid.
        valid : torch.Tensor
            float32 (n, height, width), share of each pixel that is valid in all bands, 0 to 1; above 0 somewhere in
            each tile. Between them where pixels were resized.
        **context : torch.Tensor
            One tensor per name in ``needs``: ``datetime`` float (n, 2) as year and zero-based day of the year,
            ``location`` float (n, 2) as latitude and longitude in degrees.

        Returns
        -------
        torch.Tensor
            float (n, dim).
        """

    def embedder(self, skips: Skips, run: RunSettings) -> Embedder:
        """Return what adds embeddings to tiles; moves the module to its device and precision.

        Raises
        ------
        UsageError
            There is no such device, or it cannot compute in the precision.
        """
        from rsr_cli.core.encoders.placement import place
        from rsr_cli.core.encoders.run import Embedder

        suits = {"same_in_bf16": self.same_in_bf16, "quantizable": self.quantizable}
        placement = place(run.device, run.precision or run.usual_precision, run.batch_size, **suits)
        if run.precision in ("bf16", "fp16") and not self.same_in_bf16:
            what = "%s is not known to keep its vectors in %s; compare them with others in %s alone"
            log.warning(what, self.name, run.precision, run.precision)
        log.info("computes in %s on %s", placement.precision, ", ".join(map(str, placement.devices)))
        return Embedder(self, placement, skips, fill_missing=run.fill_missing, filled=run.filled)

    @property
    def recipe(self) -> dict[str, Any]:
        """Every fact that decides the vector space, if no band is filled."""
        return {
            "model": self.name,
            "bands": self.bands,
            "mean": self.mean,
            "std": self.std,
            "size": self.size_px,
            "dim": self.dim,
            **self.facts,
        }

    def space(self, filled: Sequence[str] = (), unit: str | None = None, precision: str = "fp32") -> Space:
        """Return the vector space of tiles whose pixels are not all reflectance of every band.

        Parameters
        ----------
        filled : sequence of str
            Bands that were missing and filled with the model's mean, in the order of the model's bands.
        unit : str, optional
            The unit of pixels that are not reflectance x 10000, such as ``dB``.
        precision : str
            That in which the model computes. It is stated, but vectors of all precisions are in one space.
        """
        facts: dict[str, Any] = {"model": self.specification}
        if "weights" in self.facts:
            facts["weights"] = self.facts["weights"]
        also: dict[str, Any] = {"filled": list(filled)} if filled else {}
        if unit:
            also["unit"] = unit
        recipe = self.recipe | also
        stated = {"precision": precision} if precision != "fp32" else {}
        return Space("embedding", self.dim, "float32", fingerprint(recipe), facts | also | stated, recipe | stated)

"""Options that several commands share, each defined once."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from rsr_cli import signals
from rsr_cli.core.errors import Skips, UsageError, counted
from rsr_cli.core.files import explained
from rsr_cli.core.records.scaled import WRITTEN
from rsr_cli.remedies import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rsr_cli.core.progress import Progress
    from rsr_cli.core.records.batch import Batch
    from rsr_cli.core.records.part_writer import Writer as PartWriter
    from rsr_cli.core.records.parts import Shard
    from rsr_cli.core.records.streams import Writer
    from rsr_cli.core.records.tables import TableSettings
    from rsr_cli.core.sources import Found, Source

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("rsr")

STATUS_SKIPPED = 3

#: Command -> old form of an option -> its new form. The old form is a usage error that states the new one.
RENAMED = {
    "embed": {
        "--list-models": "is now the command rsr models",
        "--fill-missing mean": "is now a plain flag: --fill-missing",
    },
    "show": {
        "--tsne": "is now rsr plot",
        "--sample": "is now an option of rsr plot",
        "--seed": "is now an option of rsr plot",
    },
}


class Command(click.Command):
    """A command that answers the old form of an option, see `RENAMED`, with the new one."""

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        """Parse the arguments; what is written to stdout meanwhile is help, and may fail."""
        with explained("<stdout>"):
            return super().make_context(*args, **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; an old form of an option among them is a usage error."""
        options = args[: args.index("--")] if "--" in args else args
        words = [word for argument in options for word in argument.split("=", 1)]
        for old, new in RENAMED.get(self.name or "", {}).items():
            typed = old.split()
            if not ctx.resilient_parsing and any(words[i : i + len(typed)] == typed for i in range(len(words))):
                raise click.UsageError(f"{old} {new}", ctx)
        return super().parse_args(ctx, args)


class RecordsCommand(Command):
    """A command that writes records: if it fails, the last line of its stream on stdout states so."""


class Once(click.Option):
    """An option that may be passed once: of two, the first would not be applied."""

    def __init__(self, names: Sequence[str], **settings: Any) -> None:
        super().__init__(names, multiple=True, callback=self._one, **settings)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Return what the environment states, whole."""
        found = self.resolve_envvar_value(ctx)
        return None if found is None else (found,)

    def _one(self, ctx: click.Context, _param: click.Parameter, values: tuple[Any, ...]) -> Any:
        """Return the value, or ``None``; a second one is a usage error."""
        if len(values) > 1:
            raise click.UsageError(f"{self.opts[0]} is passed {len(values)} times, and only one would count", ctx)
        return values[0] if values else None


class File(click.Path):
    """The path of a file or directory; an empty one would be that of the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; an empty one is a usage error, and a stream in the place of a directory."""
        if value == "":
            self.fail("the name is empty", param, ctx)
        if value == "-" and not self.file_okay:
            self.fail("- is a stream, and a directory is needed", param, ctx)
        return super().convert(value, param, ctx)


# Every command that reads records.
inputs = click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=click.Path(allow_dash=True))

# Every command that writes records.
output = click.option(
    "-o", "--output", type=File(allow_dash=True), metavar="FILE", help="Write to this file instead of stdout."
)

# Every command that writes records.
hilbert = click.option(
    "--hilbert",
    is_flag=True,
    help="Write a Parquet file in the order of a Hilbert curve, so that a query by place reads few of its rows.",
)

# Every command that writes a file or a directory.
overwrite = click.option("--overwrite", is_flag=True, help="Replace an existing output of the same format.")


class ShardOf(click.ParamType):  # type: ignore[type-arg]
    """A share of the work: ``I/N``, or ``slurm/N`` within a SLURM array."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return which share, from 0, and of how many; what is none is a usage error."""
        from rsr_cli.core.records import parts

        found = re.fullmatch(r"(\d{1,9}|slurm)/(\d{1,9})", value)
        if not found:
            self.fail(f"{value!r} is not a share such as 0/8, or slurm/8 in a SLURM array", param, ctx)
        number, of = found.groups()
        if number == "slurm":
            number = os.environ.get("SLURM_ARRAY_TASK_ID", "")
            if not number.isdecimal():
                self.fail("there is no SLURM_ARRAY_TASK_ID: slurm is for a job array (sbatch --array)", param, ctx)
        if int(of) > parts.MOST_SHARDS:
            self.fail(f"there are {parts.MOST_SHARDS:,} shares at most", param, ctx)
        if not int(number) < int(of):
            self.fail(f"there is no share {number} of {of}: the first is 0", param, ctx)
        return int(number), int(of)


@dataclass(frozen=True)
class Destination:
    """Where a command writes records, and which share of them it makes."""

    output: str | None
    overwrite: bool
    hilbert: bool
    parts: str | None
    part_size: int | None
    part_format: str | None
    shard: tuple[int, int] | None

    def opened(
        self, command: str, skips: Skips, *, scene_of: Callable[[str], str] | None = None
    ) -> Writer | PartWriter:
        """Open it; raise UsageError if its options do not fit together.

        A command that makes tiles states of which scene the one of some id is.
        """
        from rsr_cli.core.records import part_writer, streams

        if self.parts is None:
            for name, value in (("--part-size", self.part_size), ("--part-format", self.part_format)):
                if value is not None:
                    raise UsageError(f"{name} is for --parts")
            out = streams.Writer(self.output, skips, overwrite=self.overwrite, hilbert=self.hilbert)
            path = Path(self.output or "-")
            if self.output not in (None, "-") and (path.is_file() or not path.exists()):  # neither a pipe nor a device
                signals.at_stake(lambda: self._lost(out.unfinished))
            return out
        given = {"-o": self.output is not None, "--overwrite": self.overwrite, "--hilbert": self.hilbert}
        if alone := [name for name, is_given in given.items() if is_given]:
            raise UsageError(f"{alone[0]} is for one file, and --parts writes several; leave one out")
        kind = partial(part_writer.SceneWriter, scene_of=scene_of) if scene_of else part_writer.Writer
        size, ending = self.part_size or part_writer.DEFAULT_SIZE, self.part_format or part_writer.ENDINGS[0]
        return kind(self.parts, command, skips, shard=self._shard, size=size, ending=ending)

    def _lost(self, count: int) -> str | None:
        """Return what is lost if the command is stopped after so many records."""
        if not count:
            return None
        what = "was made, and is" if count == 1 else "were made, and are"
        return f"{counted(count, 'record')} {what} lost with {self.output}; --parts DIRECTORY keeps what is done"

    def of_shard(self, batches: Iterator[Batch], skips: Skips) -> Iterator[Batch]:
        """Return the records of the shard alone."""
        from rsr_cli.core.records import parts

        return batches if self.shard is None else parts.of_shard(batches, self._shard, skips)

    def embeddings(
        self,
        inputs: Sequence[str],
        skips: Skips,
        progress: Progress,
        settings: TableSettings,
        *,
        allow_missing: bool,
    ) -> Iterator[Batch]:
        """Read the records with embeddings of the shard."""
        from rsr_cli.core.records import streams

        may_make_ids = not self.is_shared
        read = partial(streams.read, allow_missing=allow_missing, may_make_ids=may_make_ids)
        return self.of_shard(read(inputs, skips, ("embedding",), progress, settings), skips)

    def scenes_of_shard(self, scenes: Iterable[Found]) -> Iterator[Found]:
        """Yield the scenes of the shard alone."""
        return (scene for scene in scenes if self._shard.takes([scene.name])[0])

    @property
    def is_shared(self) -> bool:
        """Whether other runs make the rest, so that ids may not depend on what else this one reads."""
        return self.parts is not None or self.shard is not None

    @property
    def _shard(self) -> Shard:
        from rsr_cli.core.records import parts

        return parts.Shard(*self.shard) if self.shard else parts.WHOLE


# binarize, embed, tile.
def destination(function: Callable[P, R]) -> Callable[P, R]:
    """Add ``-o``, ``--parts`` and their like to a command, which takes them as ``to``, a `Destination`."""

    @output
    @hilbert
    @overwrite
    @click.option(
        "--parts",
        type=File(file_okay=False),
        metavar="DIRECTORY",
        help="Write parts to this directory instead. Run again, the command makes only what is missing in it.",
    )
    @click.option(
        "--part-size",
        type=click.IntRange(1),
        help="Records of the input, or tiles of whole scenes, per part.  [default: 10000]",
    )
    @click.option(
        "--part-format", type=click.Choice(["parquet", "geojsonl"]), help="Format of parts.  [default: parquet]"
    )
    @click.option(
        "--shard",
        type=ShardOf(),
        help="Take only the records, or scenes, whose ids are of share I of N, from 0; in a SLURM array slurm/N takes"
        " I from SLURM_ARRAY_TASK_ID.",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        given = {each.name: kwargs.pop(each.name) for each in fields(Destination)}
        return function(*args, to=Destination(**given), **kwargs)  # type: ignore[arg-type]

    return wrapped


# binarize, embed, index, info: commands that read what others wrote in parts.
allow_missing = click.option(
    "--allow-missing", is_flag=True, help="Read a directory of parts although parts or shards are missing or damaged."
)


# embed, transform: commands that make embeddings.
dtype = click.option(
    "--dtype",
    type=click.Choice(WRITTEN),
    default=WRITTEN[0],
    show_default=True,
    help="Type of number to write embeddings in; int8, with a scale per embedding, takes a quarter of the bytes and"
    " finds nearly the same.",
)


# binarize, index, transform: commands that apply what rsr fit learned.
def fitted(command: str, help_text: str, *, multiple: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add ``--with`` to a command, which takes the path as ``fitted``, or several paths."""
    settings: dict[str, Any] = {"multiple": True} if multiple else {"cls": Once}
    return click.option(
        "--with",
        "fitted",
        envvar=f"RSR_{command}_WITH",
        type=File(),
        metavar="FILE",
        help=help_text,
        **settings,
    )


# plot, show: the ending of the file's name selects its format.
def figure(*formats: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add a required ``-o`` to a command. It accepts file names that end in one of the formats."""
    *first, last = (f".{form}" for form in formats)
    endings = f"{', '.join(first)} or {last}"

    def check(_ctx: click.Context, _param: click.Parameter, path: str) -> str:
        if figure_format(path) not in formats:
            raise click.UsageError(f"{path!r} must end in {endings}, which chooses the format")
        return path

    return click.option(
        "-o",
        "--output",
        required=True,
        type=File(),
        callback=check,
        metavar="FILE",
        help=f"Write the figure to this {endings} file.",
    )


def figure_format(path: str) -> str:
    """Return the format that the ending of a file's name selects, such as ``png``."""
    return Path(path).suffix.lower().removeprefix(".")


# binarize, embed, plot, tile: commands that use random numbers.
def seed(help_text: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add ``--seed`` to a command; its value is ``None`` if it is not passed."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), help=help_text)


class Choice(click.Choice[str]):
    """A choice that answers what is nearly one of its values with that."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value; another one than those to choose from is a usage error."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            import difflib

            begun = [choice for choice in self.choices if choice.startswith(value)]
            close = begun or difflib.get_close_matches(value, self.choices)
            self.fail(f"{error.message} Did you mean {', '.join(close)}?" if close else error.message, param, ctx)


class NameList(click.ParamType):  # type: ignore[type-arg]
    """Names, or numbers, separated by commas."""

    def __init__(self, of: type = str) -> None:
        self.of = of
        self.name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the items as a tuple; an empty item is a usage error."""
        if not isinstance(value, str):
            return value
        try:
            items = tuple(self.of(item.strip()) for item in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers separated by commas", param, ctx)
        if "" in items:
            self.fail(f"{value!r} has an empty item", param, ctx)
        return items


class Ranges(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers and ranges of them, separated by commas: ``3,8-10``."""

    name = "ranges"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers as a sorted tuple."""
        if not isinstance(value, str):
            return value
        numbers: set[int] = set()
        for item in value.split(","):
            found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", item)
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
            if not 0 <= last - first < 65536:
                self.fail(f"{value!r} is not a list of whole numbers and ranges, such as 3,8-10", param, ctx)
            numbers.update(range(first, last + 1))
        return tuple(sorted(numbers))


class Length(click.ParamType):  # type: ignore[type-arg]
    """A length on the ground in metres, written with its unit: ``5km`` or ``500m``."""

    name = "length"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return metres; a number without a unit is a usage error."""
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(k?)m", value)
        if not found:
            self.fail(f"{value!r} is not a length with its unit, such as 5km or 500m", param, ctx)
        return float(found[1]) * (1000 if found[2] else 1)


class LonLat(click.ParamType):  # type: ignore[type-arg]
    """A place in degrees: ``LON,LAT``."""

    name = "LON,LAT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return longitude and latitude; what is off the Earth is a usage error."""
        try:
            lon, lat = map(float, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a longitude and a latitude in degrees, such as 13.4,52.5", param, ctx)
        if not (abs(lon) <= 180 and abs(lat) <= 90):
            self.fail(f"{value!r} is not on the Earth: the longitude is first, from -180 to 180", param, ctx)
        return lon, lat


class Box(click.ParamType):  # type: ignore[type-arg]
    """A box in degrees: ``W,S,E,N``, with W > E across the antimeridian."""

    name = "W,S,E,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return west, south, east and north; what is no box on the Earth is a usage error."""
        from rsr_cli.core.search.filters import parse_box

        try:
            return parse_box(value) if isinstance(value, str) else value
        except UsageError as error:
            self.fail(error.message, param, ctx)


def band_names(names: Sequence[str], *, unused: bool = False) -> tuple[str, ...]:
    """Check what was passed to --bands, see `sensors.check_names`."""
    from rsr_cli.core.sensors import check_names

    with _named("--bands"):
        return check_names(names, unused=unused)


# tile: the file's bands; embed: the model's bands; show: the bands that are displayed.
def bands(help_text: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add ``--bands`` to a command, a list of STAC common names."""
    return click.option("--bands", type=NameList(), metavar="NAME,...", help=help_text)


# Those and score, show: commands that read records by their ids.
per_band = click.option("--per-band", is_flag=True, help="Read each directory of single-band files as one scene.")


def scaling(function: Callable[P, R]) -> Callable[P, R]:
    """Add ``--scale`` and ``--offset``: what the numbers of a raster mean."""
    scale = click.option(
        "--scale",
        type=float,
        help="Reflectance x 10000 = DN * scale + offset.  [default: the file's, else the sensor's]",
    )
    offset = click.option(
        "--offset",
        type=float,
        help="-1000 for Sentinel-2 from baseline 04.00 on.  [default: the file's, else the product's, else 0]",
    )
    return scale(offset(function))


def check_scaling(sensor: str | None, scale: float | None, offset: float | None) -> None:
    """Raise UsageError unless ``--scale`` and ``--offset`` are numbers, and for the user to state."""
    from rsr_cli.core.sensors import SENSORS

    for name, value in (("scale", scale), ("offset", offset)):
        if not math.isfinite(value or 0):
            raise UsageError(f"--{name} is not a finite number")
    if scale == 0:
        raise UsageError("--scale is 0, which makes all pixels alike")
    if sensor and SENSORS[sensor].space and {scale, offset} != {None}:
        raise UsageError(f"--sensor {sensor} decides --scale and --offset itself; leave them out")


def scenes(sensor: str | None, bands: tuple[str, ...] | None, *, per_band: bool) -> Source:
    """Return where scenes come from: files, Items, or with ``per_band`` directories."""
    from rsr_cli.core.sensors import SENSORS
    from rsr_cli.core.sources import Products, Stac

    if not per_band:
        return Stac(SENSORS.get(sensor or ""), bands)
    if not sensor:
        raise UsageError("--per-band needs --sensor, which defines how single-band files are named")
    return Products(SENSORS[sensor], bands)


id_column = click.option(
    "--id-column", metavar="NAME", help="Column of the ids in a table.  [default: id, or that of a known product]"
)


# binarize, index, plot, query: commands that take vectors, which others may have made.
def table(function: Callable[P, R]) -> Callable[P, R]:
    """Add ``--space``, ``--vector-column`` and ``--id-column`` to a command, which takes them as ``settings``."""

    @click.option(
        "--space",
        metavar="NAME",
        help="Name of the vector space of embeddings that do not state it; those of one name may be compared.",
    )
    @click.option(
        "--vector-column",
        metavar="NAME",
        help="Column of the embeddings, or the first and last column of one per dimension, as in emb_0..emb_1023.  "
        "[default: embedding, embeddings, or those of a known product]",
    )
    @id_column
    @functools.wraps(function)
    def wrapped(*args: Any, space: str | None, vector_column: str | None, id_column: str | None, **kwargs: Any) -> R:
        from rsr_cli.core.records.tables import TableSettings

        return function(*args, settings=TableSettings(space, vector_column, id_column), **kwargs)  # type: ignore[arg-type]

    return wrapped  # type: ignore[return-value]


#: The options of `table`.
TABLE = ("space", "vector_column", "id_column")


def refuse_typed(why: str, *names: str) -> None:
    """Raise UsageError if one of the options was typed, and does not come from the environment."""
    for name in filter(is_typed, names):
        flag = next(param.opts[0] for param in click.get_current_context().command.params if param.name == name)
        raise UsageError(f"{flag} {why}")


def is_typed(name: str) -> bool:
    """Return whether an option was typed, and does not come from the environment or is a default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


# embed, query, show, tile: commands that open rasters, which records of a stranger may name.
def reach(function: Callable[P, R]) -> Callable[P, R]:
    """Add ``--allow-network``, without which nothing is read through the network, and ``--root`` to a command."""

    @click.option(
        "--allow-network",
        is_flag=True,
        help="Read what is on the network. Without it, a record or an Item that names a server is refused.",
    )
    @click.option(
        "--root",
        type=File(exists=True, file_okay=False),
        metavar="DIR",
        help="Open no raster outside of this directory, links followed. A record or an Item that names one is refused.",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, allow_network: bool, root: str | None, **kwargs: Any) -> R:
        from rsr_cli.core.reach import allowing

        with allowing(allow_network, root):
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


# query, score.
exclude_self = click.option("--exclude-self", is_flag=True, help="Ignore hits that have the query's own id.")


# query.
def filters(command: str, does: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add the options to filter items by to a command, which takes them as ``wanted``, a `Filter`.

    The help begins with what the command does with the items.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @click.option(
            "--bbox",
            cls=Once,
            type=Box(),
            help=f"{does} items whose bounding box touches this box, in degrees; W > E across the antimeridian.",
        )
        @click.option(
            "--within",
            cls=Once,
            type=File(),
            metavar="FILE",
            help=f"{does} items whose footprint lies, all of it, in the polygons of this GeoJSON file.",
        )
        @click.option(
            "--datetime",
            cls=Once,
            metavar="TIME[/TIME]",
            help=f"{does} items of this time, or of an interval as in STAC: 2023-07-01, 2023-06/2023-08, ../2020.",
        )
        @click.option(
            "--label",
            "labels",
            envvar=f"RSR_{command}_LABEL",
            multiple=True,
            metavar="NAME",
            help=f"{does} items with this label. Can be repeated; one of them is enough.",
        )
        @click.option(
            "--filter",
            "cql2",
            cls=Once,
            envvar=f"RSR_{command}_FILTER",
            metavar="CQL2",
            help=f"{does} items of which this is true, as in --filter 'eo:cloud_cover < 10'.",
        )
        @functools.wraps(function)
        def wrapped(
            *args: Any,
            bbox: tuple[float, float, float, float] | None,
            within: str | None,
            datetime: str | None,
            labels: tuple[str, ...],
            cql2: str | None,
            **kwargs: Any,
        ) -> R:
            from rsr_cli.core.search.filters import Filter, parse_interval

            area, condition = None, None
            if within is not None:
                from rsr_cli.core.search.area import Area

                area = Area.read(within)
            if cql2 is not None:
                from rsr_cli.core.search.condition import Condition

                with _named("--filter"):
                    condition = Condition(cql2)
            with _named("--datetime"):
                interval = None if datetime is None else parse_interval(datetime)
            return function(*args, wanted=Filter(bbox, area, interval, labels, condition), **kwargs)  # type: ignore[arg-type]

        return wrapped  # type: ignore[return-value]

    return decorated


@contextlib.contextmanager
def _named(option: str) -> Iterator[None]:
    """Put the name of an option before a usage error."""
    try:
        yield
    except UsageError as error:
        error.within(option)
        raise


def verbosity(function: Callable[P, R]) -> Callable[P, R]:
    """Add ``-q``, ``-v`` and ``--debug`` to a command; they set the level of the log."""

    @click.option("-q", "--quiet", is_flag=True, help="Print only errors to stderr.")
    @click.option("-v", "--verbose", is_flag=True, help="Print progress details to stderr.")
    @click.option("--debug", is_flag=True, help="Print debugging details and the traceback of an error.")
    @functools.wraps(function)
    def wrapped(*args: Any, quiet: bool, verbose: bool, debug: bool, **kwargs: Any) -> R:
        log.setLevel(
            logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
        )
        return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def keep_going(function: Callable[P, R]) -> Callable[P, R]:
    """Add ``--keep-going`` to a command, which takes ``skips``; exit with status 3 if any record was skipped."""

    @click.option(
        "--keep-going",
        is_flag=True,
        help="Skip records that cannot be used, and exit with status 3.",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, keep_going: bool, **kwargs: Any) -> R:
        skips = Skips(keep_going=keep_going, explain=explain)
        result = function(*args, skips=skips, **kwargs)  # type: ignore[arg-type]
        if skips.count:
            log.warning("%d skipped", skips.count)
            click.get_current_context().exit(STATUS_SKIPPED)
        return result

    return wrapped  # type: ignore[return-value]

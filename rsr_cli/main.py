"""The ``rsr`` program: finds the command, handles errors, and sets the exit status."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import re
import sys
from typing import Any, NoReturn

import click

import rsr_cli
from rsr_cli import options, signals
from rsr_cli.core.errors import ReaderGoneError, RsrError, UpstreamError, visible
from rsr_cli.core.files import reason, write_stdout
from rsr_cli.remedies import explain

log = logging.getLogger("rsr")

#: Command -> the first sentence of its help, repeated here so that `rsr --help` imports no command.
COMMANDS = {
    "tile": "Cut rasters into tiles.",
    "embed": "Encode tiles into embeddings with a foundation model.",
    "models": "List the models that rsr embed can use.",
    "fit": "Learn from a sample of embeddings how to transform or binarize such embeddings.",
    "transform": "Transform embeddings as rsr fit learned to, or write them in another type of number.",
    "binarize": "Turn embeddings into binary codes.",
    "index": "Build an index of embeddings or codes, or change one.",
    "query": "Find the nearest items in an index.",
    "score": "Compute retrieval metrics for hits.",
    "show": "Draw queries and their hits as thumbnails or on maps.",
    "plot": "Plot embeddings or codes as points, laid out by t-SNE.",
    "info": "Describe an index or a file of records.",
    "check": "Check the files of an index against their checksums.",
}


class LazyGroup(options.Command, click.Group):
    """A group that imports ``rsr_cli.commands.NAME`` only when NAME is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"rsr_cli.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that is called; a misspelled one is a usage error that names those it resembles."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = " or ".join(map(repr, difflib.get_close_matches(args[0], COMMANDS)))
            raise click.UsageError(f"{error.message} Did you mean {close}?" if close else error.message, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "RSR", "max_content_width": 100},
)
@click.version_option(rsr_cli.__version__, prog_name="rsr")
def cli() -> None:
    """Find look-alike places in multi-spectral satellite imagery.

    The commands pipe into each other. Every stream has one GeoJSON Feature per line.

    \b
      rsr tile scene.tif | rsr embed | rsr binarize | rsr index -o lake.rsr
      rsr tile --whole chip.tif > chip.geojsonl
      rsr embed --as lake.rsr chip.geojsonl | rsr query lake.rsr -k 20 > hits.geojsonl
      rsr show hits.geojsonl --queries chip.geojsonl -o hits.html
    """


class Formatter(logging.Formatter):
    """Writes a message on one line, whatever the records, paths and libraries that it quotes contain.

    Parameters
    ----------
    layout : str
        As of `logging.Formatter`.
    clear : str
        What clears the line of a terminal.
    """

    def __init__(self, layout: str, clear: str) -> None:
        super().__init__(layout)
        self._clear = clear

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message."""
        return self._clear + visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return a traceback."""
        return "\n".join(map(visible, super().formatException(ei).split("\n")))


def main(argv: list[str] | None = None) -> NoReturn:
    """Run ``rsr`` and exit: 0 done, 1 failed, 2 wrong usage, 3 records skipped, 128 + n stopped by signal n."""
    argv = sys.argv[1:] if argv is None else argv
    name = " ".join(["rsr", *(word for word in argv[:1] if word in COMMANDS)])
    signals.heed(lambda status, message: _end_stream(argv, status, (name, message)))
    # Records are created by the thousand and contain no reference cycles, so search for cycles less often.
    gc.set_threshold(100_000, 20, 20)
    handler = logging.StreamHandler()
    # On a terminal, what another command in the pipe has drawn on the line is cleared.
    clear = "\r\x1b[K" if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else ""
    handler.setFormatter(Formatter(f"{name}: %(message)s", clear))
    # What fails as the program stops is of no interest.
    handler.addFilter(lambda record: signals.received() is None or hasattr(record, "last"))
    log.addHandler(handler)
    log.propagate = False
    status, failure = _outcome(argv, name)
    number = signals.received()
    if number is not None:  # a library may have turned it into an error of its own
        status, failure = 128 + number, (name, signals.reason(number))
        if what := signals.lost():
            log.error("%s: %s", failure[1], what, extra={"last": True})
    _end_stream(argv, status, failure)
    if status not in (0, options.STATUS_SKIPPED):  # a thread that reads, perhaps from a network, would be waited for
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it may be closed, or its reader gone
            sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _end_stream(argv: list[str], status: int, failure: tuple[str, str] | None) -> None:
    """End the stream of a command that failed by stating so."""
    if failure and _writes_records(argv):
        from rsr_cli.core.records.jsonl import failure_line

        write_stdout(failure_line(*failure, status))


def _outcome(argv: list[str], name: str) -> tuple[int, tuple[str, str] | None]:
    """Run a command line; return the exit status and, if it failed, which command failed and what it reported."""
    try:
        result = cli.main(argv, prog_name="rsr", standalone_mode=False)
        if sys.stdout is not None:  # None if it was closed before the start
            sys.stdout.flush()
    except signals.Signalled as stopped:
        return 128 + stopped.number, None
    except click.exceptions.Exit as done:
        return done.exit_code, None
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return error.exit_code, (name, "no command was named")
    except click.ClickException as error:
        return error.exit_code, (name, _logged(_in_our_words(error.format_message(), name)))
    except ReaderGoneError as gone:
        return gone.status, None
    except UpstreamError as error:
        _logged(explain(error))
        return error.status, error.failure
    except RsrError as error:
        return error.status, (name, _logged(explain(error)))
    except OSError as error:
        found = reason(error) if error.strerror else str(error)
        return 1, (name, _logged(str(RsrError(found, error.filename))))
    except MemoryError as error:
        return 1, (name, _logged(f"out of memory {error}"))
    except Exception as error:
        found = f"bug in rsr: {type(error).__name__}: {error}; please report it with the output of --debug"
        return 1, (name, _logged(found))
    return result if isinstance(result, int) else 0, None


def _writes_records(argv: list[str]) -> bool:
    """Return whether a command line, which may be wrong, asks for records on stdout."""
    name, *arguments = argv or [""]
    if name not in COMMANDS:
        return True
    root = click.Context(cli, auto_envvar_prefix="RSR")
    command = cli.get_command(root, name)
    if not isinstance(command, options.RecordsCommand):
        return False
    lenient: dict[str, Any] = {"resilient_parsing": True, "ignore_unknown_options": True, "allow_extra_args": True}
    params = command.make_context(name, arguments, root, **lenient).params
    return params.get("output") in (None, "-") and not params.get("parts")


def _in_our_words(text: str, name: str) -> str:
    """Write a message of click's as one line like ours: a fact, and after a semicolon the way out."""
    fact, _, hint = " ".join(text.split()).partition("Did you mean ")
    fact = re.sub(r"is not a valid (integer|float)( range)?$", "is not a number", fact.rstrip(" (."))
    return f"{fact[:1].lower()}{fact[1:]}; " + (f"did you mean {hint.rstrip(')')}" if hint else f"see {name} --help")


def _logged(message: str) -> str:
    """Log a message as one line, with the traceback when debugging, and return the line."""
    line = " ".join(message.split())
    log.error("%s", line)
    if log.isEnabledFor(logging.DEBUG):
        log.debug("", exc_info=True)
    return line


if __name__ == "__main__":
    main()

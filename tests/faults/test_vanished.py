"""Inputs that are removed, cut short or cannot be read while they are read."""

from __future__ import annotations

import errno

import pytest
from faults.commands import parameters
from faults.harness import contents_of, differences, some

#: An assertion of libtiff's, where offsets of strips cannot be read.
ABORTED = 134


@pytest.mark.parametrize("command", parameters())
def test_an_input_that_vanishes(faults, command):
    """The output is as ever, if the command had read all that it needed, or as before."""
    expected = faults.expected(command)
    reads = expected.calls["read"]
    places = [n for n, call in enumerate(reads, 1) if is_input(command, call)]
    moments = [(n, what) for n in places for what in ("gone:0", "cut:0", f"error:{errno.EIO}")]
    if "embed" in command.words:
        # GDAL returns other pixels, and signals nothing, where it cannot read how long a strip is.
        moments = [(n, what) for n, what in moments if "error" not in what or "scene" not in reads[n - 1]]
    for place, what in some(moments, 1, command.name):
        with faults.directory(command) as path:
            done, call = faults.run(command, path, f"read:{place}:{what}")
            if not is_input(command, call):  # threads may read in another order
                continue
            faults.rounds += 1
            said = f"{command.words}\nread:{place}:{what} at {call}\n{done.status} {done.stderr}"
            if done.status == ABORTED and "tif_dirread" in done.stderr:
                continue
            faults.check_words(done, said)
            left = [entry.name for entry in path.iterdir() if entry.name.startswith(".rsr-")]
            if (path / command.output).exists() and not (command.grows and done.status):
                found, strays = contents_of(path / command.output)
                wanted = expected.after if done.status == 0 else expected.before
                assert differences(found, wanted.get(command.output)) == [], said
                left += strays
            assert (path / command.output).exists() or done.status == 1, said
            assert left == [], said


def is_input(command, call: str) -> bool:
    """Return whether a call reads what the command does not write; `rsr show` draws tiles without pixels, too."""
    name = call.partition(" ")[2]
    return bool(name) and not name.startswith(("out", ".rsr-")) and not ("show" in command.words and "scene" in name)

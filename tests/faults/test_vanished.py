"""Inputs that are removed, cut short or cannot be read while they are read."""

from __future__ import annotations

import errno

import pytest
from faults.commands import parameters
from faults.harness import contents, differences, some


@pytest.mark.parametrize("command", parameters())
def test_an_input_that_vanishes(faults, command):
    """The output is as ever, if the command had read all that it needed, or as before."""
    expected = faults.expected(command)
    places = [n for n, call in enumerate(expected.calls["read"], 1) if is_input(command, call)]
    moments = [(n, what) for n in places for what in ("gone:0", "cut:0", f"error:{errno.EIO}")]
    for place, what in some(moments, 3, command.name):
        with faults.directory(command) as path:
            fault = f"read:{place}:{what}"
            log = path.with_suffix(".log")
            done = faults.programs.run(command.arguments, path, FAULT=fault, FAULT_BELOW=path, FAULT_LOG=log)
            call = log.read_text().replace(f"{path}/", "") if log.exists() else ""
            log.unlink(missing_ok=True)
            if not is_input(command, call):  # threads may read in another order
                continue
            for word in (*command.arguments, "scene.tif"):
                if word != command.output:
                    remove(path / word)
            said = f"{command.words}\n{fault} at {call}{done.status} {done.stderr}"
            found, left = contents(path)
            faults.check_words(done, said)
            faults.rounds += 1
            wanted = expected.after if done.status == 0 else expected.before
            if not (command.grows and done.status):
                assert differences(found.get(command.output), wanted.get(command.output)) == [], said
            assert left == [], said


def is_input(command, call: str) -> bool:
    """Return whether a call reads what the command does not write; `rsr show` draws tiles without pixels, too."""
    name = call.strip().partition(" ")[2]
    return bool(name) and not name.startswith(("out", ".rsr-")) and not ("show" in command.words and "scene" in name)


def remove(path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""What rsr answers to a command line that it cannot run."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["qeury"], "rsr: no such command 'qeury'; did you mean 'query'?"),
        (["foo"], "rsr: no such command 'foo'; see rsr --help"),
        (["query", "--exlude-self"], "rsr query: no such option '--exlude-self'; did you mean '--exclude-self'?"),
        (["binarize", "--lsh"], "rsr binarize: no such option '--lsh'; see rsr binarize --help"),
        (["query"], "rsr query: missing argument 'INDEX'; see rsr query --help"),
        (
            ["query", "-k", "five"],
            "rsr query: invalid value for '-k': 'five' is not a number; see rsr query --help",
        ),
    ],
)
def test_a_command_line_that_cannot_be_run_says_what_to_type(rsr, arguments, says):
    done = rsr(*arguments)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", says + "\n")

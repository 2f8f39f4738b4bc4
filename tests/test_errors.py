"""What users read of an error."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from rsr_cli.core.errors import RsrError, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("scene/a_0_64", "scene/a_0_64"),
        ("", ""),
        ("\x1b[2J\x07\x00\x7f\x9b", r"\x1b[2J\x07\x00\x7f\x9b"),
        ("two\r\n\tlines", r"two\r\n\tlines"),
        ("\u202egpj.exe\u2028\u200b\ufeff", r"\u202egpj.exe\u2028\u200b\ufeff"),
        ("a\udc80", r"a\udc80"),  # a byte of a file's name that is not UTF-8
        ("C:\\new", "C:\\new"),
        ("森林 é שלום 🌲", "森林 é שלום 🌲"),
        ("می\u200cشود 東\u3000京 10\xa0m", "می\u200cشود 東\u3000京 10\xa0m"),
    ],
)
def test_text_is_shown_on_one_line(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


def test_no_control_character_is_left():
    """Of all characters: controls, formats that act on their surroundings, line ends, surrogates."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    kinds = {(unicodedata.category(char), char) for char in visible(every)}
    assert {char for kind, char in kinds if kind in ("Cc", "Cf", "Cs", "Zl", "Zp")} == {"\u200c", "\u200d"}
    visible(every).encode()


def test_an_error_is_one_line():
    error = RsrError("holds\n  several lines\x1b[2J", "a\nb.tif:3")
    assert str(error) == r"a\nb.tif:3: holds several lines\x1b[2J"

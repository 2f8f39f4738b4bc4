"""JSON whose numbers survive: what no double and no 64-bit integer holds keeps its text.

orjson reads every number that is not an integer of 64 bits as a double, and JSON allows any number of digits. Blocks of
lines are searched for long numbers, which is fast; only lines that have one are read again, by the standard library.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from rsr_cli.core.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Decimals of up to 15 digits, and integers of up to 18, survive. Exponents of three digits may be too small.
_LONG, _SMALL = b"0" * 16, b"e-000"
_TO_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
_NUMBER = re.compile(rb"[-\d][\d.eE+-]*")  # and parts of text; to match each whole is faster than only the long ones
_SHORT = 15  # characters: such a number survives, unless its exponent is below 0
_INTEGERS = range(-(1 << 63), 1 << 64)
_DIGITS = 20  # of the largest integer
#: Levels that orjson writes; it reads more, and Python's own functions fail at about a thousand.
DEEPEST = 254
TOO_DEEP = "is nested too deeply"


class Exact(float):
    """A number that neither a double nor an integer of 64 bits holds: the double nearest to it, and its text."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Exact:
        """Keep the text of a number."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def need_care(lines: Sequence[bytes]) -> bool:
    """Return whether any of the lines may have a number that orjson changes, or be nested deeper than it writes."""
    lines = [_without_data(line) for line in lines]
    digits = b"\n".join(lines).translate(_TO_ZEROS, b".")
    return _LONG in digits or _SMALL in digits or any(map(_may_be_deep, lines))


def _may_be_deep(line: bytes) -> bool:
    return line.count(b"[") + line.count(b"{") > DEEPEST


def _without_data(line: bytes) -> bytes:
    """Cut out the base64 of a vector, most of the line."""
    start = line.find(b'"data"')
    if start < 0:
        return line
    start += 6
    opening = line.find(b'"', start, start + 4)  # nothing but a colon and blanks may come before it
    return line[:start] + line[line.find(b'"', opening + 1) :] if opening > 0 else line


def loads(line: bytes) -> Any:
    """Parse a line of JSON, with numbers as int, float, or `Exact` if neither holds their value.

    Raises
    ------
    RecordError
        It is not JSON, is nested too deeply, or has a number that is infinite as a double.
    """
    try:
        found = orjson.loads(line)
        if _may_be_deep(line):
            dumps(found)
        if all(
            _survives(text) for text in _NUMBER.findall(_without_data(line)) if len(text) > _SHORT or b"-" in text[1:]
        ):
            return found
        return json.loads(line, parse_int=_integer, parse_float=_real)
    except orjson.JSONDecodeError as error:
        raise _unreadable(line, error) from None
    except RecursionError:
        raise RecordError(TOO_DEEP) from None


def _integer(text: str) -> int | Exact:
    return int(text) if len(text) <= _DIGITS and int(text) in _INTEGERS else Exact(text)


def _real(text: str) -> float:
    value = float(text)
    try:
        return value if repr(value) == text or Decimal(repr(value)) == Decimal(text) else Exact(text)
    except InvalidOperation:  # its exponent is beyond those of Decimal
        return Exact(text)


def _survives(digits: bytes) -> bool:
    """Return whether what looks like a number is one that orjson keeps, or none."""
    text = digits.decode()
    try:
        return type(_real(text) if "." in text or "e" in text.lower() else _integer(text)) is not Exact
    except ValueError:  # part of some text
        return True


def _unreadable(line: bytes, error: orjson.JSONDecodeError) -> RecordError:
    """Return what to raise for a line that orjson does not read."""
    if "depth limit" in error.msg:
        return RecordError(TOO_DEEP)
    if "infinity" in error.msg:
        number = re.match(rb"[-+.\dEe]{1,24}", line[error.pos :])
        text = number[0].decode() if number else ""
        return RecordError(f"has a number beyond the range of a double: {text}")

    def refuse(name: str) -> NoReturn:
        raise RecordError(f"has {name}, which is not JSON; null stands for a number that is not known")

    try:
        json.loads(line, parse_constant=refuse)
    except RecordError as found:
        return found
    except (ValueError, RecursionError):
        pass
    return RecordError(f"not JSON: {error}", remedy="lines")


def dumps(value: Any, option: int | None = None) -> bytes:
    """Write JSON, an `Exact` number as its text.

    Raises
    ------
    RecordError
        It is nested too deeply, or has text that is not Unicode.
    """
    try:
        return orjson.dumps(value, _exact, option)
    except orjson.JSONEncodeError as error:
        recursion = "ecursion" in str(error)
        raise RecordError(TOO_DEEP if recursion else f"cannot be written as JSON: {error}") from None


def _exact(number: Any) -> orjson.Fragment:
    if isinstance(number, Exact):
        return orjson.Fragment(number.text)
    raise TypeError

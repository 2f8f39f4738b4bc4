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

#: What orjson may change: decimals of up to 15 digits survive, and integers of up to 18; an exponent of three digits
#: may be too small. No quotation mark stands before a number, as it does before a fingerprint of digits.
_LONG_OR_SMALL = re.compile(rb"(?<![^-\[,: \t\r\n])\d(?:\.?\d){15}|\d[eE]-\d{3}")
#: For a search that is faster: digits become 0, what may stand before a number a colon, and most else goes.
_BEFORE = b"-[,: \t\r\n"
_TO_ZEROS = bytes.maketrans(b"123456789E" + _BEFORE, b"000000000e" + b":" * len(_BEFORE))
_OTHERS = bytes(set(range(256)).difference(b'0123456789eE"', _BEFORE))
_LONG, _SMALL = b":" + b"0" * 16, b"0e:000"
_DATA = b'"data":"'  # in no text, where quotation marks are escaped
#: What stands between the tokens of JSON becomes a blank.
_TO_BLANKS = bytes.maketrans(b"[]{}:,", b"      ")
_BEGIN_NUMBERS = frozenset(b"-0123456789")
_INTEGERS = range(-(1 << 63), 1 << 64)
_DIGITS = 20  # of the largest integer
#: Of what orjson reads and does not write, and of what Python's own functions do not read.
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
    """Return whether any of the lines may have a number that orjson changes."""
    # inlined, since every line passes here: the base64 of a vector, most of the line, is cut out
    text = b"\n".join(
        [
            line[:start] + line[line.find(b'"', start + len(_DATA)) :] if (start := line.find(_DATA)) > 0 else line
            for line in lines
        ]
    )
    digits = text.translate(_TO_ZEROS, _OTHERS)
    return (_LONG in digits or _SMALL in digits) and _LONG_OR_SMALL.search(text) is not None


def loads(line: bytes) -> Any:
    """Parse a line of JSON, with numbers as int, float, or `Exact` if neither holds their value.

    Raises
    ------
    RecordError
        It is not JSON, is nested too deeply, or has a number that is infinite as a double.
    """
    try:
        found = orjson.loads(line)
        tokens = line.translate(_TO_BLANKS).split()
        if all(_survives(token) for token in tokens if token[0] in _BEGIN_NUMBERS and len(token) > 5):
            return found
        return json.loads(line, parse_int=_integer, parse_float=_real)
    except orjson.JSONDecodeError as error:
        raise _unreadable(line, error) from None
    except RecursionError:
        raise RecordError(TOO_DEEP) from None


def object_in(text: bytes | str) -> dict[str, Any]:
    """Return an object of JSON, an empty one if a text is none."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _integer(text: str) -> int | Exact:
    return int(text) if len(text) <= _DIGITS and int(text) in _INTEGERS else Exact(text)


def _real(text: str) -> float:
    value = float(text)
    try:
        return value if repr(value) == text or Decimal(repr(value)) == Decimal(text) else Exact(text)
    except InvalidOperation:  # its exponent is beyond those of Decimal
        return Exact(text)


def _survives(token: bytes) -> bool:
    """Return whether a token of JSON is a number that orjson keeps, or none."""
    try:
        text = token.decode("ascii")
        return type(_integer(text) if text.lstrip("-").isdecimal() else _real(text)) is not Exact
    except ValueError:  # text, or part of one
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
    return RecordError(f"not JSON: {error.msg}, at column {error.colno}", remedy="lines")


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

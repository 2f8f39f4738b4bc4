"""Rows of values as text."""

import csv
import io
import json

import pytest

from rsr_cli.tables import CHUNK, LAYOUTS, lay_out, width

COLUMNS = ("name", "value", "count")
ROWS = [("a, b", 0.5, 3), ("ä", None, 12_345_678)]


def text(layout, rows, **options):
    return b"".join(line for lines in lay_out(COLUMNS, rows, layout, **options) for line in lines).decode()


def test_a_table_is_aligned_to_the_width_of_its_first_column():
    assert text("table", ROWS, width=6).splitlines() == [
        "name     value   count",
        "a, b    0.5000       3",
        "ä            -  12345678",
    ]


def test_csv_quotes_and_leaves_the_unknown_empty():
    assert list(csv.reader(io.StringIO(text("csv", ROWS)))) == [
        list(COLUMNS),
        ["a, b", "0.5", "3"],
        ["ä", "", "12345678"],
    ]


def test_json_lines_have_the_columns_as_keys():
    assert [json.loads(line) for line in text("jsonl", ROWS).splitlines()] == [
        {"name": "a, b", "value": 0.5, "count": 3},
        {"name": "ä", "value": None, "count": 12_345_678},
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_written_as_they_come(layout):
    pulled = 0

    def rows():
        nonlocal pulled
        for pulled in range(1, 5 * CHUNK + 1):
            yield "a", 0.5, pulled

    chunks = lay_out(COLUMNS, rows(), layout)
    next(chunks)
    assert pulled <= CHUNK
    assert sum(map(len, chunks)) > 4 * CHUNK - 1


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        *(
            (formula, f"'{formula}")
            for formula in ("=1+1", "+A1", "-A1", "@SUM(A1)", "=", " =1", "\uff1d1", "-5+5", "+")
        ),
        *((f"{blank}=1", f"'{shown}=1") for blank, shown in (("\t", "\\t"), ("\r", "\\r"), ("\n", "\\n"))),
        *((text, text) for text in ("", "a=1", "-5", "+5", "-0.5", "-1e-7", "a-b", "1-2", "'=1", "a, b", 'a "b"')),
        *((number, str(number)) for number in (-5, -0.5, -1e-300, 3)),
        (None, ""),
        ("\x1b[31m\x00\x9b\u2028\u200f", r"\x1b[31m\x00\x9b\u2028\u200f"),
    ],
)
def test_a_cell_of_csv_is_text_or_a_number_and_no_formula(cell, written):
    assert list(csv.reader(io.StringIO(text("csv", [(cell, cell, cell)])))) == [list(COLUMNS), [written] * 3]


def test_a_table_is_as_wide_as_its_text_is_shown():
    assert width(["ä", "\x1b", ""]) == len(r"\x1b")
    assert width([]) == 0
    assert text("table", [("\x1b\n", "\t", 1)], width=6).splitlines()[1] == r"\x1b\n      \t       1"

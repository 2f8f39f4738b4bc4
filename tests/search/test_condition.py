"""Conditions in CQL2 against predicates in Python."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
import shapely
from shapely.geometry import mapping, shape
from support import code_records, make_index

from rsr_cli.core.errors import UsageError
from rsr_cli.core.index import kept
from rsr_cli.core.search import filters
from rsr_cli.core.search.condition import Condition
from rsr_cli.core.search.filters import Filter


def record(name, geometry=None, **properties) -> dict:
    return {"type": "Feature", "id": name, "geometry": geometry, "properties": properties}


RECORDS = [
    record("a", n=1, split="train", labels=["lake", "forest"], datetime="2023-07-01T10:00:00Z"),
    record("b", n=2.5, split="val", labels=["lake"], datetime="2023-07-01T23:59:59.5Z", flag=True),
    record("c", n=None, split=None, labels=[], datetime="2023-07-02T01:00:00+02:00", flag=False),
    record("d", n="1", split=3, datetime="some day", flag="true"),
    record("e", mapping(shapely.box(0, 0, 1, 1)), n=-4, split="train'", view={"azimuth": 20}, datetime="2023-07-02"),
    record(7, mapping(shapely.box(5, 5, 6, 6)), n=10**15, type="x", **{"eo:cloud_cover": 3.5, "a.b": 1}),
    record("g", n=[1], split={"op": "=", "args": [1, 1]}, labels=["it's", "Lake"], datetime="2024-01-01T00:00:00Z"),
    record("h"),
]


def number(each) -> float:
    """Return the number n, or one of which nothing is true."""
    found = each["properties"].get("n")
    return found if isinstance(found, int | float) else float("nan")


def split(each) -> str | None:
    found = each["properties"].get("split")
    return found if isinstance(found, str) else None


def labels(each) -> set | None:
    return set(each["properties"]["labels"]) if "labels" in each["properties"] else None


def instant(each) -> datetime | None:
    try:
        found = datetime.fromisoformat(each["properties"]["datetime"])
    except (KeyError, ValueError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def day(*numbers) -> datetime:
    return datetime(*numbers, tzinfo=UTC)


def between(first, after):
    """Return a predicate of times from a moment on, before another one."""
    return lambda r: instant(r) is not None and first <= instant(r) < after


ALWAYS, NEVER = day(1, 1, 1), day(9999, 1, 1)
JULY_1, JULY_2, JULY_3 = (day(2023, 7, each) for each in (1, 2, 3))

CASES = {
    "n = 1": lambda r: number(r) == 1,
    "n <> 1": lambda r: number(r) == number(r) != 1,
    "NOT n = 1": lambda r: number(r) == number(r) != 1,
    "n > 1 AND n < 3": lambda r: 1 < number(r) < 3,
    "n BETWEEN 1 AND 2.5": lambda r: 1 <= number(r) <= 2.5,
    "NOT n BETWEEN 1 AND 2.5": lambda r: number(r) < 1 or number(r) > 2.5,
    "n IN (1, -4)": lambda r: number(r) in (1, -4),
    "n * 2 + 1 = 6": lambda r: number(r) == 2.5,
    "n / 2 = 1.25": lambda r: number(r) == 2.5,
    "n % 2 = 1": lambda r: number(r) == 1,
    "8 / (n - 1) > -100": lambda r: number(r) == number(r) != 1,
    "NOT 8 / (n - 1) > 100": lambda r: number(r) == number(r) != 1,
    "NOT 8 % (n - 1) = 100": lambda r: number(r) == number(r) != 1,
    "8 / (n - 1) > 100 OR n = 1": lambda r: number(r) == 1,
    "NOT n / (n - n) > 100 OR n = 1": lambda r: number(r) == 1,
    "8 / n > 2": lambda r: number(r) in (1, 2.5),
    "NOT 8 / n > 2": lambda r: number(r) < 0 or number(r) > 4,
    "n / 8 + 8 / n > 3 AND n / n = 1": lambda r: number(r) in (1, 2.5, 10**15),
    "n = '1'": lambda r: r["id"] == "d",
    "n IS NULL": lambda r: r["properties"].get("n") is None,
    "n IS NOT NULL": lambda r: r["properties"].get("n") is not None,
    "split = 'train'": lambda r: split(r) == "train",
    "properties.split = 'train'": lambda r: split(r) == "train",
    "split = 'train'''": lambda r: split(r) == "train'",
    "split IN ('train', 'val')": lambda r: split(r) in ("train", "val"),
    "split LIKE 'train%'": lambda r: (split(r) or "").startswith("train"),
    "casei(split) = casei('TRAIN')": lambda r: split(r) == "train",
    "split = 'val' OR n < 0": lambda r: split(r) == "val" or number(r) < 0,
    "NOT (split = 'val' OR n < 0)": lambda r: split(r) not in (None, "val") and number(r) >= 0,
    "flag = true": lambda r: r["properties"].get("flag") is True,
    "flag": lambda r: r["properties"].get("flag") is True,
    "id = 'b'": lambda r: r["id"] == "b",
    "id = '7'": lambda r: r["id"] == 7,
    "type = 'x'": lambda r: r["id"] == 7,
    "eo:cloud_cover < 10": lambda r: r["id"] == 7,
    '"eo:cloud_cover" < 10': lambda r: r["id"] == 7,
    "view.azimuth = 20": lambda r: r["id"] == "e",
    "a.b = 1": lambda r: r["id"] == 7,
    "A_CONTAINS(labels, ('lake'))": lambda r: {"lake"} <= (labels(r) or set()),
    "A_CONTAINS(labels, ('lake', 'forest'))": lambda r: {"lake", "forest"} <= (labels(r) or set()),
    "A_OVERLAPS(labels, ('it''s', 'forest'))": lambda r: bool({"it's", "forest"} & (labels(r) or set())),
    "A_CONTAINEDBY(labels, ('lake', 'forest'))": lambda r: labels(r) is not None and labels(r) <= {"lake", "forest"},
    "A_EQUALS(labels, ('forest', 'lake'))": lambda r: labels(r) == {"lake", "forest"},
    "datetime > TIMESTAMP('2023-07-01T10:00:00Z')": between(day(2023, 7, 1, 10, 0, 1), NEVER),
    "datetime <= TIMESTAMP('2023-07-01T12:00:00+02:00')": between(ALWAYS, day(2023, 7, 1, 10, 0, 1)),
    "datetime BETWEEN TIMESTAMP('2023-07-01T10:00:00Z') AND TIMESTAMP('2023-07-01T23:00:00Z')": between(
        day(2023, 7, 1, 10), day(2023, 7, 1, 23, 0, 1)
    ),
    "datetime IN (TIMESTAMP('2023-07-01T12:00:00+02:00'))": between(day(2023, 7, 1, 10), day(2023, 7, 1, 10, 0, 1)),
    "datetime < DATE('2023-07-02')": between(ALWAYS, JULY_2),
    "datetime <= DATE('2023-07-01')": between(ALWAYS, JULY_2),
    "datetime > DATE('2023-07-01')": between(JULY_2, NEVER),
    "datetime >= DATE('2023-07-01')": between(JULY_1, NEVER),
    "datetime = DATE('2023-07-01')": between(JULY_1, JULY_2),
    "datetime <> DATE('2023-07-01')": lambda r: instant(r) is not None and not JULY_1 <= instant(r) < JULY_2,
    "datetime BETWEEN DATE('2023-07-01') AND DATE('2023-07-02')": between(JULY_1, JULY_3),
    "datetime IN (DATE('2023-07-01'))": between(JULY_1, JULY_2),
    "DATE('2023-07-01') < datetime": between(JULY_2, NEVER),
    "T_AFTER(datetime, DATE('2023-07-01'))": between(JULY_2, NEVER),
    "T_INTERSECTS(datetime, INTERVAL('2023-07-02T00:00:00Z', '..'))": between(JULY_2, NEVER),
    "S_INTERSECTS(geometry, POINT(1 1))": lambda r: r["id"] == "e",
    "S_WITHIN(geometry, POLYGON((-1 -1, 2 -1, 2 2, -1 2, -1 -1)))": lambda r: r["id"] == "e",
    "S_INTERSECTS(geometry, BBOX(0.5, 0.5, 5, 5))": lambda r: bool(
        r["geometry"] and shape(r["geometry"]).intersects(shapely.box(0.5, 0.5, 5, 5))
    ),
    "geometry IS NULL": lambda r: r["geometry"] is None,
    "n = NULL": lambda _: False,
}


@pytest.mark.parametrize("text", CASES)
def test_a_condition_is_true_of_the_records_that_a_predicate_is(text):
    condition = Condition(text)
    found = [each["id"] for each in RECORDS if condition.of(condition.values(str(each["id"]), each)) is True]
    assert found == [each["id"] for each in RECORDS if CASES[text](each)]


@pytest.mark.parametrize(
    "text",
    [
        "datetime < TIMESTAMP('2023-12-31T23:59:60Z')",
        "S_INTERSECTS(geometry, MULTIPOLYGON(((0 0, 6 0, 6 6, 0 6, 0 0)), ((6 0, 12 0, 12 6, 6 6, 6 0))))",
        "S_INTERSECTS(geometry, LINESTRING(5 5, 5 5))",
        "S_INTERSECTS(geometry, POINT Z (5 5 1))",
        "s_intersects(geometry, bbox(0, 0, -100, 3, 3, 100))",
    ],
)
def test_what_is_cql2_is_taken(text):
    Condition(text)


def test_divisions_side_by_side_do_not_multiply():
    text = " + ".join(f"n / (n + {i})" for i in range(100)) + " > 0"
    assert Condition(text).of({"n": 5}) is True
    assert Condition(text).of({"n": -50}) is None


def test_the_cases_tell_predicates_apart():
    """Every case but that of NULL, of which nothing is true, is true of some records and not of others."""
    for text, predicate in CASES.items():
        assert len({bool(predicate(each)) for each in RECORDS}) == 2 or text == "n = NULL", text


def test_cql2_as_json_is_refused_as_such():
    with pytest.raises(UsageError, match="is CQL2 as JSON: it is read as text, such as"):
        Condition(' {"op": "<", "args": [{"property": "n"}, 1]}')


@pytest.mark.parametrize(
    ("text", "place"), [("n =", 4), ("n == 3", 4), ("", 1), ("split = 'tr", 9), ("(n = 3", 7), ("n = 3;", 6)]
)
def test_what_is_no_cql2_is_refused_with_the_place(text, place):
    with pytest.raises(UsageError) as caught:
        Condition(text)
    assert str(caught.value) == f"{text!r} is not CQL2: it goes wrong at character {place}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("foo(n) = 1", "foo is no function of CQL2"),
        ("n = 1 OR MOD(n, 2) = 1", "MOD is no function of CQL2"),
        ("NOT S_NEAR(geometry, POINT(1 2))", "S_NEAR is no function of CQL2"),
        ("S_INTERSECTS(geometry, POINT(9.9))", "POINT has no coordinates that can be read: a space is between"),
        ("S_INTERSECTS(geometry, POINT(50.1, 9.9))", "POINT has no coordinates that can be read: a space is between"),
        ("S_INTERSECTS(geometry, POINT EMPTY)", "'S_INTERSECTS(geometry, POINT EMPTY)' is not CQL2: "),
        ("S_INTERSECTS(geometry, POLYGON((0 0, 6 0, 6 6, 0 6, 0 0 5)))", "'S_INTERSECTS("),
        ("S_INTERSECTS(geometry, BBOX(50, 100, 51, 110))", "BBOX has a latitude beyond 90 degrees"),
        ("between(n, 1)", "'between(n, 1)' is not CQL2: "),
        ("8 / (1 / (1 / n)) > 0", "divides by a quotient; write it as a product"),
        ("datetime > DATE('20200601')", "'20200601' is not a date or time such as "),
        ("datetime > DATE('2020-W23-1')", "'2020-W23-1' is not a date or time such as "),
        ("S_WITHIN(geometry, POLYGON((0 0, 1 1)))", "a Polygon has too few points"),
        ("S_WITHIN(geometry, POLYGON((0 0, 2 2, 2 0, 0 2, 0 0)))", "a Polygon is not valid: Self-intersection"),
        ("S_INTERSECTS(geometry, LINESTRING(0 0))", "a LineString has too few points"),
        ("S_INTERSECTS(geometry, POINT(50 120))", "a Point has a latitude beyond 90 degrees"),
        ("n < 5 OR datetime > DATE('2020-13-01')", "'2020-13-01' is not a date or time such as "),
        ("datetime IN (TIMESTAMP('2020-12-01T25:00:00Z'))", "'2020-12-01T25:00:00Z' is not a date or time such as "),
        ("T_DURING(datetime, INTERVAL('..', '2020-02-30'))", "'2020-02-30' is not a date or time such as "),
    ],
)
def test_what_can_be_true_of_no_record_is_refused(text, why):
    with pytest.raises(UsageError) as caught:
        Condition(text)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    "part", ["({})", "NOT ({})", "n = 1 AND ({})", "n = 1 AND {}", "n = 1 OR {}", "NOT {}", "1 + 1 = 2 OR {}"]
)
def test_conditions_of_many_parts(part):
    """The library would overflow its stack."""
    before, after = part.split("{}")
    assert Condition(before * 200 + "n = 1" + after * 200).of({"n": 1}) is True
    with pytest.raises(UsageError, match="has more than 1000 parts"):
        Condition(before * 30_000 + "n = 1" + after * 30_000)


def test_long_lists_are_one_part():
    names = ", ".join(f"'a-{i} (and or not)'" for i in range(20_000))
    assert Condition(f"id IN ({names})").of({"id": "a-7 (and or not)"}) is True


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    blank = code_records(np.zeros((len(RECORDS), 4), np.uint8), 32)
    records = [code | each for code, each in zip(blank, RECORDS, strict=True) if "datetime" not in each["properties"]]
    records += [
        code | {"properties": code["properties"] | {"n": number, "split": "train"}}
        for number, code in enumerate(code_records(np.zeros((4, 4), np.uint8), 32))
    ]
    for each, code in zip(records, blank, strict=False):
        each["properties"] = each["properties"] | {"code": code["properties"]["code"]}
    with make_index(tmp_path_factory.mktemp("index") / "i.rsr", records) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("eo:cloudcover < 10", "none of 6 items has the property 'eo:cloudcover'; did you mean 'eo:cloud_cover'?"),
        ('split = "train"', "none of 6 items has the property 'train'; text is written in single quotes, 'train'"),
        ("nowhere < 10", "none of 6 items has the property 'nowhere'$"),
        ("split = 'train' OR spilt = 'val'", "none of 6 items has the property 'spilt'; did you mean 'split'?"),
        (
            "split = 3",
            "the condition is neither true nor false of any of 6 items: it compares values",
        ),
        ("n / 0 = 1", "the condition is neither true nor false of any of 6 items: it compares values"),
        ("n", "the condition is neither true nor false of any of 6 items: it compares values"),
        ("eo:cloud_cover < 0", None),
        ("n = 3", None),
    ],
)
def test_a_condition_that_is_not_meant_so_is_warned_about(index, caplog, text, warning):
    Filter(condition=Condition(text)).select(index.segments)
    assert len(caplog.messages) == (warning is not None)
    assert all(f"{message}$".startswith(warning) for message in caplog.messages)


@pytest.mark.parametrize(
    ("text", "enough", "warning"),
    [
        ("n >= 0 OR rare = 1", 3, None),
        ("n >= 0 OR rare = 1", 2, "none of 2 items that were looked at has the property 'rare'$"),
        (
            "n >= 0 OR spilt = 'val'",
            3,
            "none of 2 items that were looked at has the property 'spilt'; did you mean 'split'?",
        ),
        ("n < 0 OR nowhere = 1", 5, "none of 4 items has the property 'nowhere'$"),
    ],
)
def test_of_few_records_it_is_warned_about_what_is_sure(tmp_path, monkeypatch, caplog, text, enough, warning):
    for name, value in {"RUNS": 1, "RUN_ROWS": 2, "COUNTED": 1}.items():
        monkeypatch.setattr(kept, name, value)
    monkeypatch.setattr(filters, "MANY_ASKED", enough)
    records = code_records(np.zeros((4, 4), np.uint8), 32)
    for number, each in enumerate(records):
        each["properties"] |= {"n": number, "split": "train", **({"rare": 1} if number == 3 else {})}
    with make_index(tmp_path / "i.rsr", records) as index:
        (rows,) = Filter(condition=Condition(text)).select(index.segments).kept
        assert caplog.messages == [each for each in caplog.messages if f"{each}$".startswith(str(warning))]
        assert len(caplog.messages) == (warning is not None)
        assert rows.untested == (0 if "n < 0" in text else 2)

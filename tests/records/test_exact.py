"""Numbers that no double holds, through reading and writing, against the decimal arithmetic of the standard library."""

from __future__ import annotations

import json
import random
from decimal import Decimal

import pytest
from support import drawn_record, feature, make_index, read_all

from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.records import exact, jsonl
from rsr_cli.core.records.exact import Exact, dumps, loads
from rsr_cli.core.search.ask import Searcher
from rsr_cli.core.search.scope import Scope

#: Numbers that neither a double nor an integer of 64 bits holds.
LONG = [
    *("18446744073709551616", "-9223372036854775809", "36893488147419103233", "1" * 300),
    *("0.1234567890123456789", "0.1000000000000000055511151231257827", "9007199254740993.0", "-1.00000000000000000001"),
    *(
        "1e-400",
        "-2.5E-4000",
        "123456789012345678901e-5",
        "0." + "0" * 400 + "1",
        "4.9e-324",
        "1e-999999999999999999999",
    ),
]
#: Numbers that they hold.
SHORT = [
    *("0", "1", "-1", "18446744073709551615", "-9223372036854775808", "9007199254740993"),
    *("0.1", "-0.0", "0.30000000000000004", "8.983152841195215e-05", "5e-324", "1.7976931348623157e308", "1e22"),
]


@pytest.mark.parametrize("text", LONG)
def test_a_number_that_no_double_holds_keeps_its_text(text):
    number = loads(text.encode())
    assert isinstance(number, Exact)
    assert (float(number), dumps([number, {"a": number}])) == (float(text), f'[{text},{{"a":{text}}}]'.encode())


@pytest.mark.parametrize("text", SHORT)
def test_any_other_number_is_read_as_usual(text):
    number = loads(text.encode())
    assert type(number) in (int, float)
    assert (number, str(number)[0]) == (json.loads(text), text[0])
    assert Decimal(dumps(number).decode()) == Decimal(text)


def test_numbers_drawn_at_random_keep_their_value():
    draw = random.Random(0)
    for _ in range(3000):
        digits = "".join(draw.choices("0123456789", k=draw.randint(1, 25)))
        whole, fraction = digits[: draw.randint(1, 5)].lstrip("0") or "0", digits
        exponent = draw.choice(["", f"e{draw.randint(-400, 280)}", f"E+{draw.randint(0, 280)}"])
        text = draw.choice(["", "-"]) + draw.choice([digits.lstrip("0") or "0", f"{whole}.{fraction}{exponent}"])
        line = b'{"a":"12","data":"AAAA0123456789012345678","b":%s}' % text.encode()
        fast = json.loads if exact.need_care([line]) else exact.orjson.loads
        read = loads if fast is json.loads else fast
        assert Decimal(dumps(read(line)["b"]).decode()) == Decimal(text), text


@pytest.mark.parametrize("data", ['"data":"AAAA"', '"data" : "AA"', '"data":7', '"data":null', '"data":["1"]', '"x":1'])
def test_a_long_number_is_seen_before_and_after_a_vector(data):
    for line in ('{"n":%s,%s}', '{%s,"n":%s}'):
        for long in LONG:
            text = line % ((long, data) if line.startswith('{"n"') else (data, long))
            assert exact.need_care([b"{}", text.encode()]), text


@pytest.mark.parametrize(
    "text",
    [
        '"data":"%s"',
        '"fingerprint":"%s"',
        '"sha256": "ab%sef"',
        '"id":"scene-001"',
        '"id":"S2_%s_e-100"',
        '"id":"2_image-512"',
        '"x":0.123',
    ],
)
def test_digits_in_text_take_no_time(text):
    """A fingerprint of nothing but digits made every command ten times slower."""
    line = "{%s}" % (text % ("1234567890" * 9) if "%s" in text else text)
    assert not exact.need_care([line.encode(), b'{"id":"t1"}'])


@pytest.mark.parametrize("before", [":", ": ", ":\t", "[", ":[1,", ':"a",', ":-", ":[ -"])
@pytest.mark.parametrize("long", ["0.1234567890123456789", "18446744073709551616", "1e-400"])
def test_a_long_number_is_seen_wherever_it_stands(before, long):
    line = f'{{"n"{before}{long}'.encode()
    assert exact.need_care([b"{}", line])


@pytest.mark.parametrize("text", ["- 1234567890123456789012 -", "1_0000000000000000", "1e-400 days", "٣" * 20])
def test_text_that_looks_like_numbers_is_kept(text):
    line = json.dumps({"a": text, "b": 1}, ensure_ascii=False).encode()
    assert loads(line) == {"a": text, "b": 1}


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_what_python_writes_for_no_number_is_named(tmp_path, name):
    (tmp_path / "in").write_text(f'{{"type":"Feature","id":1,"properties":{{"gsd":{name}}}}}\n')
    with pytest.raises(RecordError, match=f"in:1: has {name}, which is not JSON; null stands for"):
        read_all(tmp_path / "in")
    assert read_all(tmp_path / "in", keep_going=True)[2].count == 1


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e309", "9" * 400])
def test_a_number_beyond_a_double_is_named(tmp_path, number):
    (tmp_path / "in").write_text(f'{{"type":"Feature","id":1,"properties":{{"gsd":{number}}}}}\n')
    with pytest.raises(RecordError, match=f"in:1: has a number beyond the range of a double: {number[:24]}$"):
        read_all(tmp_path / "in")


@pytest.mark.parametrize("depth", [255, 990, 1000, 1024, 1025, 50_000])
@pytest.mark.parametrize("inner", ["1", "36893488147419103233"])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_named(depth, inner, left, right):
    with pytest.raises(RecordError, match=r"^is nested too deeply$"):
        dumps(loads((left * depth + inner + right * depth).encode()))


def test_numbers_survive_the_way_through_files_and_an_index(tmp_path):
    record = drawn_record("a")
    record["properties"] |= {"cell": 0, "deep": [{"height": 1}]}
    line = jsonl.dump(record).replace(b'"cell":0', b'"cell":36893488147419103233')
    line = line.replace(b'"height":1', b'"height":0.1234567890123456789').replace(
        b'"id":"a"', b'"id":18446744073709551616'
    )
    (tmp_path / "in").write_bytes(line)
    (batch,) = jsonl.read_records(str(tmp_path / "in"), None, Skips())
    assert b"".join(map(jsonl.dump, batch.records)) == line
    with make_index(tmp_path / "i.rsr", batch.records) as index:
        searcher = Searcher(Scope(index), 1, exclude_self=False, skips=Skips())
        found = searcher.by_item(searcher.queries.ids(["18446744073709551616"]))
        ((hit,),) = found
    for text in (b'"id":18446744073709551616', b'"cell":36893488147419103233', b'"height":0.1234567890123456789'):
        assert text in hit
    assert b'"query":18446744073709551616,"rank":1' in hit


def test_a_value_that_is_no_json_is_named():
    with pytest.raises(RecordError, match="cannot be written as JSON"):
        jsonl.dump(feature("x", text="\ud800"))

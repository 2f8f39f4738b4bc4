"""TREC qrels files."""

from __future__ import annotations

import pytest

from rsr_cli.core.errors import RecordError, Skips
from rsr_cli.core.scoring.qrels import Qrels, is_qrels


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a qrels file."""

    def parse(text):
        path = tmp_path / "t.qrels"
        path.write_text(text)
        qrels = Qrels()
        qrels.read(str(path), Skips())
        return qrels

    return parse


def gain(qrels, query, item):
    return qrels.gain(query, frozenset(), {"id": item, "properties": {}})


def test_the_ending_marks_a_qrels_file():
    assert is_qrels("a/b.qrels")
    assert not is_qrels("qrels.txt")


def test_grades_are_by_query_and_item(read):
    with read("q 0 x 2\n\n  q\t0  y 0\nq 0 x 2\np 0 x -1\np 0 x 0\n") as qrels:
        assert [gain(qrels, *pair) for pair in (("q", "x"), ("q", "y"), ("p", "x"), ("q", "unjudged"))] == [
            2,
            0,
            0,
            None,
        ]
        assert list(qrels.queries()) == ["p", "q"]
        assert [qrels.judges(query) for query in ("p", "q", "x")] == [True, True, False]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("q 0 x 1\nq 0 x 0\n", "2: contradicts line 1, which judges the same item for the same query: 0 here, 1 there"),
        ("q 0 x 0\n\np 0 x 1\nq 1 x 2\n", "4: contradicts line 1, which judges {}: 2 here, 0 there"),
        ("1 0 2.0 3\n1.0 0 2 1\n", "2: contradicts line 1, which judges {}: 1 here, 3 there"),
        ("q 0 x 1\nq 0 x 1\nq 0 x -1\n", "3: contradicts line 1, which judges {}: 0 here, 1 there"),
    ],
)
def test_two_judgements_of_an_item_must_agree(tmp_path, lines, says):
    path = tmp_path / "t.qrels"
    path.write_text(lines)
    with pytest.raises(RecordError) as caught, Qrels() as qrels:
        qrels.read(str(path), Skips())
    assert str(caught.value) == f"{path}:" + says.format("the same item for the same query")
    skips = Skips(keep_going=True)
    with Qrels() as qrels:  # the first one counts
        qrels.read(str(path), skips)
        query, _, item, grade = lines.split()[:4]
        assert gain(qrels, query.removesuffix(".0"), item) == float(grade)
    assert skips.count == 1


def test_the_query_itself_can_be_excluded(read):
    with read("q 0 q 1\nq 0 x 1\nq 0 y 2\n") as qrels:
        ideal, size = qrels.ideal("q", frozenset(), exclude_self=True)
        assert (ideal.gains.tolist(), ideal.counts.tolist(), size) == ([2, 1], [1, 1], None)
        assert qrels.ideal("q", frozenset(), exclude_self=False)[0].counts.tolist() == [1, 2]


@pytest.mark.parametrize("line", ["q 0 x", "q 0 x 1 2", "q 0 x one", f"q 0 x {'9' * 400}"])
def test_a_malformed_line_is_named(read, line):
    with pytest.raises(RecordError, match=r"t\.qrels:2: is not a line of a qrels file"):
        read(f"q 0 x 1\n{line}\n")

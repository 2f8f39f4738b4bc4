"""Digests of ids."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rsr_cli.core.records.ids import MAX_BYTES, common, digests


def test_ids_that_differ_little_have_digests_that_differ():
    names = [
        f"S2A_MSIL2A_2023{day:04}_T32UQD_{col}_{row}" for day in range(50) for col in range(50) for row in range(80)
    ]
    assert len(np.unique(digests(names))) == len(names)
    assert np.unpackbits(digests(names).view(np.uint8)).mean().round(2) == 0.5


@given(st.lists(st.text(max_size=40) | st.text(min_size=200, max_size=MAX_BYTES), max_size=20))
def test_a_digest_depends_on_its_id_alone(names):
    assert digests(names).tolist() == [digests([name]).item() for name in names]


def test_ids_of_any_length_are_digested():
    names = ["", "a", "x" * MAX_BYTES, "x" * (MAX_BYTES + 1), "x" * 10_000, "\udc80"]
    found = digests(names)
    assert len(np.unique(found)) == len(names)
    assert found.tolist() == [digests([name]).item() for name in names]


def test_digests_are_the_same_tomorrow():
    # computed by hand, with Python's own integers
    def mixed(text):
        total = 0
        data = text.encode().ljust(-(-len(text.encode()) // 8) * 8, b"\0")
        for place in range(len(data) // 8):
            word = int.from_bytes(data[8 * place : 8 * place + 8], "little")
            word = word * (((place + 1) * 0x9E3779B97F4A7C15) % 2**64 | 1) % 2**64
            word ^= word >> 32
            word = word * 0xFF51AFD7ED558CCD % 2**64
            total += word ^ word >> 29
        return total % 2**64

    names = ["t0", "lake/lake_7", "S2A_MSIL2A_20230601T102559_N0509_R108_T32UQD_12_40"]
    assert digests(names).tolist() == [mixed(name) for name in names]


@given(st.lists(st.integers(0, 30)), st.lists(st.integers(0, 30)))
def test_common_digests_are_found(some, others):
    arrays = [np.sort(np.array(each, np.uint64)) for each in (some, others)]
    assert common(*arrays).tolist() == sorted(set(some) & set(others))

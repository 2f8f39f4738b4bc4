"""Signs against the definition, bit by bit."""

from __future__ import annotations

from support import bits_of, codes_of


def test_sign_is_one_bit_a_dimension(embeddings):
    for record, vector in zip(codes_of(embeddings, "sign"), embeddings, strict=True):
        assert bits_of(record) == [1 if value > 0 else 0 for value in vector.tolist()]

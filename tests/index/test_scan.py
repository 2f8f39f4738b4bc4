"""The codes in the order of faiss's fast scan, against faiss itself and brute force, and damaged."""

from __future__ import annotations

import os
from itertools import pairwise

import faiss
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import batches, binarized, embedding_records, make_index, weighted_distances

from rsr_cli.core.errors import IndexFormatError, Skips
from rsr_cli.core.index import build, flat, integrity, scan, upkeep
from rsr_cli.core.index.flat import Flat, nearest
from rsr_cli.core.index.kept import Kept
from rsr_cli.core.index.reading import Index
from rsr_cli.core.index.scan import SCAN, Scan, packed, write_scan
from rsr_cli.core.index.weights import WeightedBits, use_bits
from rsr_cli.core.index.writer import facts_of

SEGMENT = "segments/000001"


@pytest.fixture(autouse=True)
def _few_rows_are_enough(monkeypatch):
    monkeypatch.setattr(scan, "FEWEST_ROWS", 100)
    for module in (scan, flat):
        monkeypatch.setattr(module, "LIST_ROWS", 128)


@pytest.mark.parametrize("width", [1, 2, 3, 12, 33, 96])
@pytest.mark.parametrize("count", [1, 31, 64, 65, 130, 700])
def test_codes_are_packed_as_faiss_packs_what_is_added(width, count):
    codes = np.random.default_rng(width).integers(0, 256, (count, width), dtype=np.uint8)
    tables = faiss.IndexPQFastScan(8 * (width + 1), 2 * (width + 1), 4, faiss.METRIC_INNER_PRODUCT, scan.BLOCK_ROWS)
    use_bits(tables.pq, 4)
    tables.is_trained = True
    bits = np.unpackbits(codes, axis=1).reshape(count, width, 2, 4)[:, :, ::-1].reshape(count, -1)  # lower four first
    tables.add(np.pad(bits, ((0, 0), (0, 8))).astype(np.float32))
    assert np.array_equal(packed(codes).ravel(), faiss.AlignedTable_to_array(tables.codes))


def opened(folder, codes) -> Scan:
    write_scan(folder, codes)
    return Scan(folder, *codes.shape)


def drawn(n, bits, seed=0) -> np.ndarray:
    """Draw rows of bits, many of which are alike."""
    rng = np.random.default_rng(seed)
    rows = rng.random((n, bits)) < rng.choice([0.5, 0.02], (n, 1))
    rows[rng.random(n) < 0.3] = rows[0]
    return rows


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_codes_rank_as_brute_force(tmp_path_factory, data):
    n, bits, seed = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 300)), data.draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    rows = drawn(n, bits, seed)
    queries = rng.standard_normal((3, bits)) * (rng.random((3, bits)) < data.draw(st.sampled_from([0, 0.1, 1])))
    queries = data.draw(st.sampled_from([queries, np.round(queries), np.where(rows[:1], queries + 9, queries - 9)]))
    codes, weighted = np.packbits(rows, axis=1), WeightedBits(queries)
    kept = data.draw(st.sampled_from([None, 0.02, 0.5, 1.0]))
    may = np.ones(n, bool) if kept is None else rng.random(n) < kept
    k, radius = data.draw(st.none() | st.integers(1, n + 3)), data.draw(st.none() | st.sampled_from([0.0, bits / 3]))
    plain = Flat(codes, "hamming", 0, None if kept is None else Kept.where(may), 1000)
    scanned = Flat(codes, "hamming", 0, plain.kept, 1000, opened(tmp_path_factory.mktemp("s"), codes))
    expected = []
    for query in queries:
        distances = weighted_distances(query, rows)
        order = [row for row in np.lexsort((np.arange(n), distances)) if may[row]]
        order = [row for row in order if radius is None or distances[row] <= radius][:k]
        expected.append((distances[order].tolist(), [1000 + row for row in order]))

    def search(part, some, width):
        return part.search(weighted[some], width, radius)

    for each in (plain, scanned):
        for found in (each.search(weighted, k, radius), nearest([each], search, 3, k, weighted=True)):
            assert [(near.tolist(), rows.tolist()) for near, rows in found] == expected


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n_queries", [1, 5])
def test_parts_and_threads_do_not_change_a_ranking(tmp_path, monkeypatch, threads, n_queries):
    monkeypatch.setattr(flat.faiss, "omp_get_max_threads", lambda: threads)
    monkeypatch.setattr(flat, "PART_BYTES", 100)
    rows = drawn(1000, 50)
    codes, weighted = np.packbits(rows, axis=1), WeightedBits(np.random.default_rng(1).standard_normal((n_queries, 50)))
    firsts = [0, 700, 701, 1000]
    flats = []
    for first, end in pairwise(firsts):
        (tmp_path / str(first)).mkdir()
        part = codes[first:end]
        flats.append(Flat(part, "hamming", 0, None, first, opened(tmp_path / str(first), part)))
    for k, radius in ((1, None), (30, None), (None, 15.0), (400, 15.0)):

        def search(part, some, width, radius=radius):
            return part.search(weighted[some], width, radius)

        exact = Flat(codes, "hamming", 0).search(weighted, k, radius)
        found = nearest(flats, search, n_queries, k, weighted=True)
        assert [(d.tolist(), r.tolist()) for d, r in found] == [(d.tolist(), r.tolist()) for d, r in exact]


VECTORS = np.random.default_rng(5).standard_normal((300, 24)).astype(np.float32)


def records(some: slice, method="rotated") -> list[dict]:
    return binarized(embedding_records(VECTORS), method)[some]


def append(path, made) -> None:
    takes = build.appendable(path, None)
    sum(build.append(batches(made, takes.kinds), path, takes.metric, Skips()))


def scans(path) -> list[bool]:
    with Index(path) as index:
        return [segment.scan is not None for segment in index.segments]


def test_a_segment_of_enough_rows_has_the_file_through_all_changes(tmp_path):
    path = tmp_path / "i.rsr"
    append(path, records(slice(0, 150)))
    append(path, records(slice(150, 170)))
    append(path, records(slice(170, 300)))
    assert scans(path) == [True, False, True]
    sum(upkeep.merge([path], tmp_path / "merged.rsr", Skips()))
    assert (tmp_path / "merged.rsr" / SEGMENT / SCAN).samefile(path / SEGMENT / SCAN)
    upkeep.delete(path, lambda _: {0: range(50)})
    sum(upkeep.compact(path))
    assert scans(path) == [True]
    with Index(path) as index:
        index.segments[0].scan.check(index.segments[0].vectors)
        assert index.segments[0].count == 250
    sum(integrity.check(path, pytest.fail))


@pytest.mark.parametrize("method", ["sign", "lsh", "trivial"])
def test_codes_of_the_paper_have_no_such_file(tmp_path, method):
    made = binarized(embedding_records(VECTORS), method, None if method == "sign" else 8)
    make_index(tmp_path / "x.rsr", made).__exit__()
    assert scans(tmp_path / "x.rsr") == [False]


def without_scan(path) -> None:
    """Make an index what an earlier version would have written."""
    (path / SEGMENT / SCAN).unlink()
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"], manifest["segments"][0]["files"][SCAN]
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))


def test_an_index_without_the_file_answers_alike_and_gets_it_by_compaction(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, records(slice(None))).__exit__()
    queries = np.random.default_rng(2).standard_normal((5, 24))

    def found(**settings) -> list[tuple[list, list]]:
        with Index(path) as index:
            return [(near.tolist(), rows.tolist()) for near, rows in index.search(queries, **settings)]

    asked = [{"k": 7}, {"k": 200}, {"radius": 9.5}, {"k": 3, "radius": 8.0}]
    before = [found(**settings) for settings in asked]
    without_scan(path)
    assert scans(path) == [False]
    assert [found(**settings) for settings in asked] == before
    sum(upkeep.compact(path))
    assert scans(path) == [True]
    assert [found(**settings) for settings in asked] == before
    with Index(path) as index:
        generation = index.manifest.generation
    sum(upkeep.compact(path))  # there is nothing left to do
    with Index(path) as index:
        assert index.manifest.generation == generation


def cut(data: np.ndarray) -> np.ndarray:
    return data[:-64]


def beyond(data: np.ndarray) -> np.ndarray:
    numbers = data[128 * 4 : 128 * (4 + 8)].view(np.int64)  # of the first list, behind its codes
    assert numbers.tolist() == list(range(128))
    numbers += 300
    return data


def other(data: np.ndarray) -> np.ndarray:
    data[5] ^= 1
    return data


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "it has uint8"),
        (lambda data: data.astype(np.uint16), "it has uint16"),
        (beyond, "it has numbers beyond the segment's rows"),
    ],
)
def test_a_damaged_file_is_named_where_it_is_used(tmp_path, damage, says):
    path = tmp_path / "i.rsr"
    make_index(path, records(slice(None))).__exit__()
    forge(path, damage)
    with Index(path) as index:
        index.search(index.vector(0)[None], 5)  # by Hamming distance, which does not use it
        with pytest.raises(IndexFormatError, match=rf"scan\.npy: is damaged: {says}"):
            index.search(np.ones((1, 24)), 200)


def test_a_file_that_is_changed_while_it_is_open_is_named(tmp_path):
    path = tmp_path / "i.rsr"
    with make_index(path, records(slice(None))) as index:
        index.search(np.ones((1, 24)), 5)
        os.utime(path / SEGMENT / SCAN, ns=(1, 1))
        with pytest.raises(IndexFormatError, match=r"scan\.npy: was changed by another process"):
            index.search(np.ones((1, 24)), 5)


@pytest.mark.parametrize("damage", [beyond, other, cut])
def test_a_file_of_other_codes_is_found_by_a_check(tmp_path, damage):
    path = tmp_path / "i.rsr"
    make_index(path, records(slice(None))).__exit__()
    forge(path, damage)
    errors: list[IndexFormatError] = []
    sum(integrity.check(path, errors.append))
    (error,) = errors
    assert str(error).startswith(str(path / SEGMENT / SCAN))
    assert "is damaged" in str(error)


def forge(path, damage) -> None:
    """Change the file, and have the manifest state its size and sha256."""
    np.save(path / SEGMENT / SCAN, damage(np.load(path / SEGMENT / SCAN)))
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["segments"][0]["files"][SCAN] = facts_of(path / SEGMENT / SCAN)
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))

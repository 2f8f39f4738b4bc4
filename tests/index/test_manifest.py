"""The manifest of an index."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import orjson
import pytest
from support import code_records, make_index

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.index.manifest import Manifest, SegmentFacts
from rsr_cli.core.index.reading import Index
from rsr_cli.core.records.space import Space


def test_an_index_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "i.rsr"
    make_index(path, code_records(np.zeros((3, 4), np.uint8), 32))
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes(orjson.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(IndexFormatError, match="schema 99"):
        Index(path)


def facts(**changes) -> Manifest:
    space = Space("code", 32, "uint8", "emb", {"method": "sign"}, {"bits": 32})
    files = {name: {"size": 140, "sha256": "f" * 64} for name in ("vectors.npy", "deleted-000001.npy")}
    segment = SegmentFacts("000001", 3, files, "deleted-000001.npy", 1)
    stated = {"generation": 1, "metric": "hamming", "space": space, "max_norm": 0.0, "segments": (segment,)}
    ranges = {"gsd": (10.0, 30.0), "extent": (640.0, 2240.0)}
    return Manifest(**stated | ranges | {"made_with": {}, "arguments": ["rsr"]} | changes)


@pytest.mark.parametrize("manifest", [facts(), facts(space=None, gsd=None, segments=())])
def test_a_manifest_is_read_as_it_was_written(tmp_path, manifest):
    manifest.write(tmp_path)
    assert asdict(Manifest.read(tmp_path)) == asdict(manifest)  # spaces are equal whatever their recipe
    assert orjson.loads((tmp_path / "manifest.json").read_bytes())["generation"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def unsigned(folder) -> dict:
    """Write a manifest and return it without its checksum, as an older version writes it, or a forger."""
    facts().write(folder)
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    del manifest["sha256"]
    return manifest


def test_an_older_manifest_states_no_extent(tmp_path):
    manifest = unsigned(tmp_path)
    del manifest["extent"]
    (tmp_path / "manifest.json").write_bytes(orjson.dumps(manifest))
    assert asdict(Manifest.read(tmp_path)) == asdict(facts(extent=None))


def test_an_older_manifest_has_a_list_of_no_deletions(tmp_path):
    manifest = unsigned(tmp_path)
    (tmp_path / "manifest.json").write_bytes(orjson.dumps(manifest | {"deletions": []}))
    assert asdict(Manifest.read(tmp_path)) == asdict(facts())


def test_a_manifest_with_any_bit_flipped_is_refused_or_reads_the_same(tmp_path):
    facts().write(tmp_path)
    path = tmp_path / "manifest.json"
    sound = path.read_bytes()
    for at in range(8 * len(sound)):
        flipped = bytearray(sound)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            found = Manifest.read(tmp_path)
        except IndexFormatError:
            continue
        assert asdict(found) == asdict(facts())  # such as another kind of white space


def test_the_rows_of_all_segments_are_counted_but_those_that_are_deleted():
    segments = tuple(SegmentFacts(f"{number:06}", count, {}, "x", 2) for number, count in enumerate((3, 40), 1))
    assert facts(segments=segments).count == 39


def test_a_manifest_is_extended_by_the_segments_and_ranges_of_another():
    more = (SegmentFacts("new1", 40, {}),)
    last, new = facts(generation=41, max_norm=2.0), facts(gsd=(20.0, 60.0), extent=None, segments=more)
    both = last.extended(new)
    assert (both.generation, both.max_norm, both.gsd, both.extent) == (41, 2.0, (10.0, 60.0), (640.0, 2240.0))
    assert both.segments == last.segments + more
    empty = facts(space=None, segments=(), gsd=None, extent=None)
    assert (empty.extended(new).space, empty.extended(new).gsd) == (new.space, (20.0, 60.0))
    assert last.extended(empty) == last


@pytest.mark.parametrize(
    "change", [{"segments": None}, {"segments": [{"name": "000001"}]}, {"space": {"kind": "code"}}]
)
def test_a_manifest_without_what_it_should_state_is_damaged(tmp_path, change):
    (tmp_path / "manifest.json").write_bytes(orjson.dumps(unsigned(tmp_path) | change))
    with pytest.raises(IndexFormatError, match=r"its manifest\.json is damaged: "):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", [b"[]", b"7", b'"x"', b"{}"])
def test_json_that_is_no_manifest_is_of_no_schema_that_is_read(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(IndexFormatError, match="schema None") as caught:
        Manifest.read(tmp_path)
    assert caught.value.remedy == "rebuild"


def test_what_is_not_an_index_is_told_apart(tmp_path):
    (tmp_path / "file").write_text("")
    for path, says in (
        (tmp_path, "is not an index: it has no manifest.json"),
        (tmp_path / "file", "is a file and not an index, which is a directory"),
        (tmp_path / "nowhere", "no such index"),
    ):
        with pytest.raises(IndexFormatError) as caught:
            Manifest.read(path)
        assert str(caught.value) == f"{path}: {says}"


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "l1"},
        {"metric": ["hamming"]},
        {"space": None},
        {"segments": []},
        {"generation": "1"},
        {"generation": True},
        {"generation": 2**63},
        {"max_norm": "0"},
        {"max_norm": -1},
        {"max_norm": 1e300},
        {"gsd": [10]},
        {"gsd": [10, "x"]},
        {"gsd": [0, -1]},
        *({"extent": extent} for extent in ([10], [10, "x"], [0, 5], 5, {"a": 1})),
        {"segments": 5},
        {"segments": [5]},
        {"deletions": 5},
        {"deletions": ["x"]},
        {"more": 1},
        *({"space.kind": kind} for kind in ("image", [], "embedding")),
        *({"space.size": size} for size in (0, -1, 2**40, "32", True)),
        *({"space.facts": facts} for facts in (5, {"filled": 5}, {"filled": [[]]}, {"method": []}, {"seed": "x"})),
        *({"space.recipe": 5}, {"space.fingerprint": 5}, {"space.dtype": "float32"}),
        *({"segment.name": name} for name in ("../../etc", "000001/..", "", 5, "1")),
        *({"segment.count": count} for count in (0, -1, "3", 1.5, True)),
        *({"segment.files": files} for files in (5, {}, {"../x": {"size": 1}}, {"/etc/passwd": {"size": 1}})),
        *({"segment.files": {"vectors.npy": file}} for file in (5, {}, {"size": "1"})),
        *({"segment.deleted": deleted} for deleted in (0, -1, 4, "1", True)),
        *({"segment.partitions": facts} for facts in (5, {}, {"count": "2"}, {"count": 0}, {"count": True})),
        *({"arguments": arguments} for arguments in (None, "rsr", [5])),
        *({"made_with": versions} for versions in (None, ["rsr"], {"rsr": 5})),
        *({"segment.deletions": name} for name in (None, "elsewhere.npy", 5, "../x")),
    ],
    ids=repr,
)
def test_a_forged_manifest_is_refused_in_one_line(tmp_path, change):
    manifest = unsigned(tmp_path)
    for key, value in change.items():
        *where, name = key.split(".")
        place = {"space": manifest["space"], "segment": manifest["segments"][0]}[where[0]] if where else manifest
        place[name] = value
    (tmp_path / "manifest.json").write_bytes(orjson.dumps(manifest))
    with pytest.raises(IndexFormatError, match=r"^\S+: its manifest\.json is damaged: .+$") as caught:
        Manifest.read(tmp_path)
    assert caught.value.remedy == "rebuild"

"""Readers hold what they opened, writers take turns, and what nobody holds is removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from support import batches, code_records, make_index

from rsr_cli.core.errors import IndexFormatError, OutputError, Skips
from rsr_cli.core.index import build, generations, integrity, upkeep
from rsr_cli.core.index.manifest import Manifest
from rsr_cli.core.index.reading import Index

RSR = [sys.executable, "-m", "rsr_cli.main"]


def made(path, *names):
    return make_index(path, code_records(np.arange(len(names), dtype=np.uint8)[:, None], 8, list(names)))


def append(path, *names):
    records = code_records(np.arange(len(names), dtype=np.uint8)[:, None], 8, list(names))
    return sum(build.append(batches(records), path, None, Skips()))


def segments(path) -> list[str]:
    return sorted(entry.name for entry in (path / "segments").iterdir())


def live(index) -> list[str]:
    """Return the ids of the rows that are not deleted."""
    return [
        index.record(segment.first + row)[0]
        for segment in index.segments
        for row in (range(segment.count) if segment.live is None else segment.live.nonzero()[0].tolist())
    ]


def test_a_generation_stays_until_its_last_reader_is_done(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b").__exit__()
    append(path, "c")
    first, second = Index(path), Index(path)
    sum(upkeep.compact(path))
    assert segments(path) == ["000001", "000002", "000003"]
    append(path, "d")
    first.__exit__()
    append(path, "e")
    assert second.record(2)[0] == "c"  # whose table is opened only now
    assert segments(path) == ["000001", "000002", "000003", "000004", "000005"]
    second.__exit__()
    append(path, "f")
    assert segments(path) == ["000003", "000004", "000005", "000006"]
    assert not (path / "generations").exists()


def test_compacting_what_is_in_one_segment_removes_what_a_reader_held(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b").__exit__()
    append(path, "c")
    reader = Index(path)
    sum(upkeep.compact(path))
    assert segments(path) == ["000001", "000002", "000003"]
    reader.__exit__()
    assert sum(upkeep.compact(path)) == 0
    assert segments(path) == ["000003"]
    assert not (path / "generations").exists()


def test_appending_only_what_is_there_leaves_the_index_as_it_was(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b").__exit__()
    before = (path / "manifest.json").read_bytes()
    records = code_records(np.zeros((2, 1), np.uint8), 8, ["b", "a"])
    skips = Skips(keep_going=True)
    assert sum(build.append(batches(records), path, None, skips)) == 2
    assert skips.count == 2
    assert (path / "manifest.json").read_bytes() == before
    assert segments(path) == ["000001"]


def test_a_reader_in_another_process_is_waited_for_and_one_that_was_killed_is_not(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b").__exit__()
    query = subprocess.Popen([*RSR, "query", path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    held = time.monotonic() + 60
    while time.monotonic() < held and not _is_open(query.pid, path / "manifest.json"):
        time.sleep(0.05)
    try:
        make_index(path, code_records(np.zeros((1, 1), np.uint8), 8), overwrite=True).__exit__()
        assert segments(path) == ["000001", "000002"]
    finally:
        query.kill()
        query.wait(60)
    append(path, "z")
    assert segments(path) == ["000002", "000003"]


def _is_open(pid: int, path: Path) -> bool:
    links = Path(f"/proc/{pid}/fd")
    return any(os.path.realpath(link) == str(path) for link in links.iterdir())


def test_a_reader_waits_for_a_lock_and_does_not_ask_for_it_again_and_again(tmp_path, monkeypatch):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()
    opened = []
    monkeypatch.setattr(Manifest, "open", lambda *given, of=Manifest.open: opened.append(given) or of(*given))
    with (path / "manifest.json").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.5, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        Index(path).__exit__()
    assert len(opened) == 1


def test_what_was_deleted_stays_for_a_reader(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b", "c").__exit__()
    upkeep.delete(path, lambda _: {0: [0]})
    with Index(path) as index:
        upkeep.delete(path, lambda _: {0: [1]})
        files = {entry.name for entry in (path / "segments" / "000001").iterdir() if entry.name.startswith("deleted")}
        assert files == {"deleted-000002.npy", "deleted-000003.npy"}
        ((_, rows),) = index.search(np.zeros((1, 1), np.uint8))
        assert rows.tolist() == [1, 2]
    upkeep.delete(path, lambda _: {0: [2]})
    assert [entry.name for entry in (path / "segments" / "000001").glob("deleted*")] == ["deleted-000004.npy"]


def test_on_a_shared_file_system_a_generation_stays_for_a_day(tmp_path, monkeypatch):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()
    monkeypatch.setattr(generations, "is_local", lambda _: False)
    make_index(path, code_records(np.zeros((1, 1), np.uint8), 8), overwrite=True).__exit__()
    assert segments(path) == ["000001", "000002"]
    monkeypatch.setattr(generations, "GRACE_S", 0)  # as if the day had passed
    append(path, "b")
    assert segments(path) == ["000002", "000003"]


def test_a_file_system_without_links_keeps_a_copy(tmp_path, monkeypatch):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with Index(path) as index:
        make_index(path, code_records(np.zeros((1, 1), np.uint8), 8, ["b"]), overwrite=True).__exit__()
        assert index.record(0)[0] == "a"  # whose table is opened only now
    assert Manifest.read(path).generation == 2
    monkeypatch.setattr(generations, "GRACE_S", 0)  # as if the day had passed
    append(path, "c")
    assert segments(path) == ["000002", "000003"]


def test_what_no_writer_made_is_not_removed(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()
    kept = [
        path / "segments" / "000001" / "notes.npy",
        path / "segments" / "notes" / "a",
        path / "generations" / "b.json",
    ]
    left = [
        path / "segments" / "000009" / "c",
        path / "segments" / "new-0a" / "d",
        path / "generations" / "000000.json",
    ]
    for file in kept + left:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    append(path, "b")
    assert [file.exists() for file in kept + left] == [True] * 3 + [False] * 3


def test_nothing_is_removed_that_an_unreadable_generation_may_name(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()
    with Index(path):
        make_index(path, code_records(np.zeros((1, 1), np.uint8), 8, ["b"]), overwrite=True).__exit__()
        (path / "generations" / "000001.json").write_text("{}")  # such as one of another version
        append(path, "c")
        assert segments(path) == ["000001", "000002", "000003"]
    append(path, "d")
    assert segments(path) == ["000002", "000003", "000004"]


def test_a_change_stands_though_what_it_replaced_cannot_be_removed(tmp_path, monkeypatch, caplog):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(generations, "_is_held", refuse)
    append(path, "b")
    assert Manifest.read(path).count == 2
    assert caplog.messages == [f"{path}: what is no longer needed cannot be removed: permission denied"]


@pytest.mark.parametrize("number", [10**15, "9" * 16])
def test_an_index_never_becomes_one_that_cannot_be_read(tmp_path, number):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()
    last = Manifest.read(path)
    if isinstance(number, str):
        (path / "segments" / "000001").rename(path / "segments" / number)
        replace(last, segments=(replace(last.segments[0], name=number),)).write(path)
    else:
        replace(last, generation=number).write(path)
    with pytest.raises(IndexFormatError, match="cannot be changed any more"):
        append(path, "b")
    with Index(path) as index:
        assert index.record(0)[0] == "a"
    assert len(segments(path)) == 1


def test_file_systems_are_told_apart(tmp_path):
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = {mount[4]: mount[mount.index("-") + 1] for mount in mounts}
    assert not generations.is_local(Path("/proc/self"))
    assert kinds["/proc"] == "proc"
    above = max((mount for mount in kinds if tmp_path.is_relative_to(mount)), key=len)
    assert generations.is_local(tmp_path) == (kinds[above] in generations.LOCAL)


def test_mounts_of_any_name_are_told_apart(tmp_path):
    """On Linux with user namespaces: the last of two mounts counts, and a name may be no UTF-8."""
    script = (
        "import subprocess, sys\nfrom pathlib import Path\nfrom rsr_cli.core.index.generations import is_local\n"
        "for name in (b'm\\xff n', b'tab\\tnew\\nline'):\n"
        "    path = Path(sys.argv[1]) / name.decode(errors='surrogateescape')\n"
        "    path.mkdir()\n"
        "    for kind in ('tmpfs', 'proc', 'tmpfs', 'proc'):\n"
        "        subprocess.run(['mount', '-t', kind, kind, path], check=True)\n"
        "        assert is_local(path) == (kind == 'tmpfs'), kind\n"
    )
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*unshared, "mount", "-t", "proc", "p", "/proc"]).returncode:
        pytest.skip("there are no user namespaces")
    subprocess.run([*unshared, sys.executable, "-c", script, tmp_path], check=True)


def test_an_index_that_cannot_be_written_is_asked_and_nothing_is_written(rsr, tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b").__exit__()
    for entry in [path, *path.rglob("*")]:
        entry.chmod(stat.S_IMODE(entry.stat().st_mode) & ~0o222)
    before = {entry: entry.stat().st_mtime_ns for entry in [path, *path.rglob("*")]}
    try:
        done = rsr("query", path, "--id", "a")
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 2
        assert {entry: entry.stat().st_mtime_ns for entry in [path, *path.rglob("*")]} == before
    finally:
        path.chmod(0o755)
        (path / "segments").chmod(0o755)
        (path / "segments" / "000001").chmod(0o755)


def test_two_processes_that_append_at_once_both_do(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a").__exit__()
    script = (
        "import sys; sys.path.insert(0, sys.argv[3])\n"
        "from pathlib import Path\nimport numpy as np\nfrom support import batches, code_records\n"
        "from rsr_cli.core.errors import Skips\nfrom rsr_cli.core.index import build\n"
        "for i in range(15):\n"
        "    records = code_records(np.full((3, 1), i, np.uint8), 8, [f'{sys.argv[2]}{i}_{j}' for j in range(3)])\n"
        "    sum(build.append(batches(records), Path(sys.argv[1]), None, Skips()))\n"
    )
    tests = Path(__file__).parents[1]
    writers = [subprocess.Popen([sys.executable, "-c", script, path, name, tests]) for name in "xy"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    with Index(path) as index:
        ids = [index.record(row)[0] for row in range(index.manifest.count)]
        assert (len(ids), len(set(ids)), index.manifest.generation) == (91, 91, 31)
        for name in "xy":
            assert [each for each in ids if each[0] == name] == [f"{name}{i}_{j}" for i in range(15) for j in range(3)]


def test_two_processes_that_create_an_index_by_appending_both_do(tmp_path):
    path = tmp_path / "i.rsr"
    streams = {}
    for name in "xy":
        records = code_records(np.zeros((2, 1), np.uint8), 8, [f"{name}0", f"{name}1"])
        work = build.append((each for each in batches(records, size=1)), path, None, Skips())
        next(work)  # it has read a record
        streams[name] = work
    other = build.build(batches(code_records(np.zeros((2, 1), np.uint8), 8)), path, None, Skips())
    next(other)
    merging = upkeep.merge([made(tmp_path / "part.rsr", "z").path], path, Skips())
    next(merging)
    assert [sum(work) for work in streams.values()] == [1, 1]
    for work in (other, merging):
        with pytest.raises(OutputError, match="was created by another process meanwhile"):
            sum(work)
    with Index(path) as index:
        assert [index.record(row)[0] for row in range(index.manifest.count)] == ["x0", "x1", "y0", "y1"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["i.rsr", "part.rsr"]
    assert segments(path) == ["000001", "000002"]


@pytest.fixture
def late(monkeypatch):
    """Return a function that has another process create an index just before this one would."""

    def create(path, *names):
        publish = build.publish_directory

        def publish_late(directory, final):
            monkeypatch.undo()
            append(path, *names)
            publish(directory, final)

        monkeypatch.setattr(build, "publish_directory", publish_late)

    return create


def test_an_index_that_appears_while_another_is_published_takes_its_rows(tmp_path, late):
    path = tmp_path / "i.rsr"
    late(path, "a", "b")
    append(path, "c")
    with Index(path) as index:
        assert [index.record(row)[0] for row in range(index.manifest.count)] == ["a", "b", "c"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["i.rsr"]
    assert segments(path) == ["000001", "000002"]


def test_merged_parts_are_added_to_an_index_that_appears_meanwhile(tmp_path, late):
    path = tmp_path / "i.rsr"
    parts = [made(tmp_path / "x.rsr", "a", "b").path, made(tmp_path / "y.rsr", "b", "c").path]
    late(path, "c", "d")
    sum(upkeep.merge(parts, path, Skips(), append=True, replace_rows=True))
    with Index(path) as index:
        assert live(index) == ["d", "a", "b", "c"]
    faults = []
    sum(integrity.check(path, faults.append))
    assert not faults


def test_processes_that_create_an_index_by_appending_at_once_all_do(tmp_path):
    for name in "abcdef":
        records = code_records(np.zeros((3, 1), np.uint8), 8, [f"{name}{i}" for i in range(3)])
        (tmp_path / f"{name}.geojsonl").write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    line = [*RSR, "index", "--append", "-o", "i.rsr"]
    jobs = [subprocess.Popen([*line, f"{name}.geojsonl"], cwd=tmp_path) for name in "abcdef"]
    assert [job.wait() for job in jobs] == [0] * 6
    with Index(tmp_path / "i.rsr") as index:
        ids = [index.record(row)[0] for row in range(index.manifest.count)]
    assert sorted(ids) == [f"{name}{i}" for name in "abcdef" for i in range(3)]


def test_compacting_beside_writers_keeps_what_they_do(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b", "c").__exit__()
    upkeep.delete(path, lambda _: {0: [0]})
    append(path, "d", "e")
    work = upkeep.compact(path)
    next(work)  # it is copying
    upkeep.delete(path, lambda index: upkeep.rows_with_ids(index, ["c", "d"], Skips()))
    append(path, "f")
    sum(work)
    with Index(path) as index:
        assert live(index) == ["b", "e", "f"]
        assert [segment.count for segment in index.segments] == [4, 1]


def test_compacting_what_is_replaced_meanwhile_is_given_up(tmp_path):
    path = tmp_path / "i.rsr"
    made(path, "a", "b").__exit__()
    append(path, "c")
    work = upkeep.compact(path)
    next(work)
    make_index(path, code_records(np.zeros((1, 1), np.uint8), 8, ["new"]), overwrite=True).__exit__()
    with pytest.raises(OutputError, match="was replaced by another process meanwhile"):
        sum(work)
    with Index(path) as index:
        assert index.record(0)[0] == "new"
    append(path, "d")
    assert segments(path) == ["000003", "000004"]


def test_compacting_needs_space(tmp_path, monkeypatch):
    path = tmp_path / "i.rsr"
    made(path, "a", "b").__exit__()
    append(path, "c")
    usage = upkeep.shutil.disk_usage(path)
    monkeypatch.setattr(upkeep.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(OutputError, match=r"takes about \S+ MB, and 0.01 MB are free"):
        sum(upkeep.compact(path))
    assert segments(path) == ["000001", "000002"]

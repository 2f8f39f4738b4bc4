"""Records in parts: what is done stays done, and a run makes what is missing."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import drawn_lines, drawn_record, needs_torch

from rsr_cli.core.index.reading import Index
from rsr_cli.core.records.parts import Shard

RSR = [sys.executable, "-m", "rsr_cli.main"]
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
N = 50


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in.geojsonl").write_bytes(drawn_lines(N))
    return tmp_path


@pytest.fixture
def binarize(rsr, folder):
    """Return a function that binarizes into parts of 8 records."""

    def run(*arguments, size=8, **options):
        given = ["--parts", "p", "--part-size", size, *arguments]
        return rsr("binarize", *given, *([] if "input" in options else ["in.geojsonl"]), cwd=folder, **options)

    return run


def contents(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def ids(directory) -> list[str]:
    """Read the ids of all parts with pyarrow alone."""
    paths = sorted(directory.glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path, columns=["id"]) for path in paths])["id"].to_pylist()


def state(directory, shard=0) -> dict:
    return orjson.loads((directory / f"shard-{shard}.json").read_bytes())


def test_parts_have_the_records_of_a_file_in_their_order(rsr, folder, binarize):
    done = binarize()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert rsr("binarize", "in.geojsonl", "-o", "all.parquet", cwd=folder).returncode == 0
    parts = state(folder / "p")["parts"]
    assert [part["count"] for part in parts] == [8] * 6 + [2]
    tables = [pq.read_table(folder / "p" / part["name"]) for part in parts]
    assert pa.concat_tables(tables).equals(pq.read_table(folder / "all.parquet"))
    assert {path.name for path in (folder / "p").iterdir()} == {
        "parts.json",
        "shard-0.json",
        *(f"part-0-{number:06}.parquet" for number in range(1, 8)),
    }
    for source in ("p", "all.parquet"):
        assert rsr("index", source, "-o", f"{source}.rsr", cwd=folder).returncode == 0
    asked = [["query", f"{source}.rsr", "in.geojsonl"] for source in ("p", "all.parquet")]
    one, other = (rsr(*each, cwd=folder).stdout for each in asked)
    assert one == other


@pytest.mark.parametrize("number", STATUS)
def test_a_run_that_goes_on_makes_the_same_bytes(folder, binarize, number):
    """Whatever stops the first one: parts are whole, and nothing else is there once the second has ended."""
    lines = (folder / "in.geojsonl").read_bytes().splitlines(keepends=True)
    command = [*RSR, "binarize", "--parts", "cut", "--part-size", "8"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=folder, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"".join(lines[:29]))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not (folder / "cut" / "part-0-000002.parquet").exists() or len(state(folder / "cut")["parts"]) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        process.stdin.close()
        assert process.wait() == STATUS[number]
        assert process.stderr.read() == b""
    whole = state(folder / "cut")
    assert not whole["complete"]
    count = sum(part["count"] for part in whole["parts"])
    assert 16 <= count < 30
    done = binarize("--parts", "cut")
    assert done.stderr.decode() == f"rsr binarize: cut: {count} records in it already\n"
    assert binarize().returncode == 0
    assert contents(folder / "cut") == contents(folder / "p")


def test_added_records_make_new_parts(rsr, folder, binarize):
    binarize()
    before = contents(folder / "p")
    more = b"".join(orjson.dumps(drawn_record(f"new{i}")) + b"\n" for i in range(3))
    done = binarize(input=more + (folder / "in.geojsonl").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"rsr binarize: p: 50 records in it already\n")
    after = contents(folder / "p")
    assert {name: after[name] for name in before if name != "shard-0.json"} == {
        name: data for name, data in before.items() if name != "shard-0.json"
    }
    assert ids(folder / "p")[N:] == ["new0", "new1", "new2"]
    assert rsr("info", "--json", "p", cwd=folder).returncode == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add"])
@pytest.mark.parametrize("ending", ["parquet", "geojsonl"])
def test_a_part_that_is_damaged_is_refused_and_made_again(rsr, folder, binarize, damage, ending):
    binarize("--part-format", ending)
    before = contents(folder / "p")
    path = folder / "p" / f"part-0-000003.{ending}"
    data = before[path.name]
    changed = {"flip": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "add": data + b" "}
    path.unlink() if damage == "remove" else path.write_bytes(changed[damage])
    says = f"part-0-000003.{ending} is {'missing' if damage == 'remove' else 'damaged'}"
    done = rsr("index", "p", "-o", "i.rsr", cwd=folder)
    assert (done.returncode, not (folder / "i.rsr").exists()) == (1, True)
    assert done.stderr.decode() == (
        f"rsr index: p: {says}; run again the command that writes them, or pass --allow-missing to go on without\n"
    )
    done = rsr("index", "p", "-o", "i.rsr", "--allow-missing", cwd=folder)
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr index: p: {says}; left out\n")
    with Index(folder / "i.rsr") as index:
        assert index.manifest.count == N - 8
    done = binarize("--part-format", ending)
    assert done.returncode == 0
    assert f"p/{says}, and is made again\n".replace(" is ", ": is ", 1) in done.stderr.decode()
    assert contents(folder / "p") == before
    assert rsr("index", "p", "-o", "i.rsr", "--overwrite", cwd=folder).returncode == 0


def test_shards_together_are_all_records(rsr, folder, binarize):
    """Those of an array of which two tasks are run again too, whose count of tasks is another one."""
    for number in (0, 1, 3):
        assert binarize("--shard", f"{number}/4").returncode == 0
    done = rsr("index", "p", "-o", "i.rsr", cwd=folder)
    assert (done.returncode, b"p: shard 2 of 4 is missing; run again" in done.stderr) == (1, True)
    env = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1"}
    assert binarize("--shard", "slurm/4", env=env).returncode == 0
    assert rsr("index", "p", "-o", "i.rsr", cwd=folder).returncode == 0
    assert sorted(ids(folder / "p")) == sorted(f"{i}" for i in range(N)) or len(set(ids(folder / "p"))) == N
    own = [ids_of_shard for number in range(4) if (ids_of_shard := set(shard_ids(folder / "p", number)))]
    assert len(own) == 4
    assert sum(map(len, own)) == len(set.union(*own)) == N
    streams = [rsr("binarize", "--shard", f"{number}/4", "in.geojsonl", cwd=folder).stdout for number in range(4)]
    assert [{orjson.loads(line)["id"] for line in stream.splitlines()} for stream in streams] == own


def shard_ids(directory, number) -> list[str]:
    return [
        name
        for part in state(directory, number)["parts"]
        for name in pq.read_table(directory / part["name"], columns=["id"])["id"].to_pylist()
    ]


def test_a_shard_is_the_same_on_every_machine():
    """It is what the id's BLAKE2b of 128 bits says, as coreutils compute it."""
    for name in ("S2A_0_0", "ü", "", "x" * 300):
        done = subprocess.run(["b2sum", "-l", "128"], input=name.encode(), capture_output=True, check=True)
        number = int.from_bytes(bytes.fromhex(done.stdout[:16].decode()), "little") % 5
        assert [Shard(shard, 5).takes([name]) for shard in range(5)] == [[shard == number] for shard in range(5)]
    shares = [sum(Shard(shard, 8).takes([f"tile_{i}" for i in range(8000)])) for shard in range(8)]
    assert sum(shares) == 8000
    assert max(shares) - min(shares) < 300


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (
            ["--method", "lsh", "--bits", "16"],
            1,
            "p: the records are in another vector space than those in parts (finger",
        ),
        (["--shard", "0/2"], 2, "p: holds parts of 1 shard, and this is one of 2; pass another directory to --parts"),
        (["--parts", "other"], 1, "other: has other files than parts in it; pass another directory to --parts"),
        (["--parts", "none/p"], 1, "none/p: cannot write: no such file or directory"),
        (["-o", "x"], 2, "-o is for one file, and --parts writes several; leave one out"),
        (["--overwrite"], 2, "--overwrite is for one file, and --parts writes several; leave one out"),
        (["--hilbert"], 2, "--hilbert is for one file, and --parts writes several; leave one out"),
        (["--shard", "2/2"], 2, "invalid value for '--shard': there is no share 2 of 2: the first is 0; see "),
        (
            ["--shard", "1"],
            2,
            "invalid value for '--shard': '1' is not a share such as 0/8, or slurm/8 in a SLURM array",
        ),
        (["--shard", "slurm/8"], 2, "invalid value for '--shard': there is no SLURM_ARRAY_TASK_ID: slurm is for a job"),
    ],
)
def test_what_does_not_fit_is_refused_and_loses_nothing(folder, binarize, monkeypatch, arguments, status, says):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").write_text("mine")
    binarize()
    before = contents(folder / "p")
    more = b"".join(orjson.dumps(drawn_record(f"new{i}")) + b"\n" for i in range(3))
    done = binarize(*arguments, input=more)
    assert (done.returncode, done.stderr.decode().startswith(f"rsr binarize: {says}")) == (status, True), done.stderr
    assert {**contents(folder / "p"), "shard-0.json": b""} == {**before, "shard-0.json": b""}
    assert state(folder / "p")["parts"] == orjson.loads(before["shard-0.json"])["parts"]
    assert contents(folder / "other") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("option", [["--part-size", "8"], ["--part-format", "parquet"]])
def test_options_of_parts_need_parts(rsr, folder, option):
    done = rsr("binarize", *option, "in.geojsonl", cwd=folder)
    assert (done.returncode, f"{option[0]} is for --parts".encode() in done.stderr) == (2, True)


def test_one_process_at_a_time_makes_a_shard(folder, binarize):
    binarize()
    with (folder / "p" / "shard-0.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = binarize()
        assert (done.returncode, done.stderr) == (
            1,
            b"rsr binarize: p: another process makes these parts; run the command again\n",
        )
    assert binarize().returncode == 0
    assert not (folder / "p" / "shard-0.lock").exists()


def test_parts_after_a_command_that_failed_are_not_complete(rsr, folder, binarize):
    failure = orjson.dumps({"type": "Failure", "command": "rsr embed", "status": 1, "message": "no"})
    done = binarize(input=drawn_lines(20) + failure)
    assert (done.returncode, b"the command before it failed: rsr embed: no" in done.stderr) == (1, True)
    assert [part["count"] for part in state(folder / "p")["parts"]] == [8, 8]
    done = rsr("index", "p", "-o", "i.rsr", cwd=folder)
    assert (done.returncode, b"p: shard 0 is not complete; run again" in done.stderr) == (1, True)


@pytest.mark.parametrize("names", [range(20), ["0", 1, "x"]])
def test_ids_of_any_kind_are_known_again(folder, binarize, names):
    lines = b"".join(orjson.dumps(drawn_record("") | {"id": name}) + b"\n" for name in names)
    assert binarize(input=lines).returncode == 0
    done = binarize(input=lines)
    assert (done.returncode, done.stderr) == (0, f"rsr binarize: p: {len(names)} records in it already\n".encode())


def test_no_records_make_no_parts(rsr, folder, binarize):
    assert binarize(input=b"").returncode == 0
    assert orjson.loads(rsr("info", "--json", "p", cwd=folder).stdout)["records"] == 0
    assert binarize().returncode == 0
    assert orjson.loads(rsr("info", "--json", "p", cwd=folder).stdout)["records"] == N


DAMAGE = {
    "parts.json": [{"shards": "x"}, {"shards": -1}, {"shards": 10**15}, {"shards": 1.5}, {"space": "x"}, {"space": {}}],
    "shard-0.json": [{"parts": {}}, {"parts": [5]}, {"complete": "no"}],
    "part": [{"name": 5}, {"name": "x"}, {"name": "../x.parquet"}, {"name": "part-1-000001.parquet"}, {"count": "x"}],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in DAMAGE for change in DAMAGE[name]])
def test_what_states_the_parts_is_checked(rsr, folder, binarize, name, change):
    binarize()
    path = folder / "p" / ("shard-0.json" if name == "part" else name)
    facts = orjson.loads(path.read_bytes())
    (facts["parts"][0] if name == "part" else facts).update(change)
    path.write_bytes(orjson.dumps(facts))
    for done in (rsr("info", "p", cwd=folder), binarize()):
        assert (done.returncode, f"p/{path.name}: is damaged; remove the dir".encode() in done.stderr) == (1, True)
    assert not (folder / "p" / "shard-0.lock").exists()


def test_parts_without_what_they_have_in_common_are_refused(rsr, folder, binarize):
    binarize()
    (folder / "p" / "parts.json").unlink()
    for done in (rsr("info", "p", cwd=folder), binarize()):
        assert (done.returncode, b"p: has parts, and no parts.json that states their space" in done.stderr) == (1, True)


@pytest.mark.parametrize("name", ["parts.json", "shard-0.json", "part-0-000001.parquet"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(rsr, folder, binarize, name):
    binarize()
    (folder / "p" / name).unlink()
    os.mkfifo(folder / "p" / name)
    assert rsr("info", "p", cwd=folder).returncode == 1


@needs_torch
def test_parts_keep_the_precision_that_was_chosen_first(rsr, folder, shared_data):
    tiles = rsr("tile", "--dataset", "folders", "--sensor", "eurosat", shared_data / "eurosat_ms", cwd=folder).stdout
    few = b"".join(tiles.splitlines(keepends=True)[::30])
    (folder / "tiles.geojsonl").write_bytes(few)
    embed = ["embed", "tiles.geojsonl", "--parts", "e", "--part-size", 4]
    assert rsr(*embed, "--model", "rcf", cwd=folder).returncode == 0
    assert rsr("embed", "--model", "rcf", "tiles.geojsonl", "-o", "all.parquet", cwd=folder).returncode == 0
    paths = sorted((folder / "e").glob("*.parquet"))
    made = pa.concat_tables([pq.read_table(path) for path in paths])["embedding"].to_pylist()
    np.testing.assert_allclose(made, pq.read_table(folder / "all.parquet")["embedding"].to_pylist(), rtol=1e-5)
    for path in paths[1:]:
        path.unlink()
    done = rsr(*embed, "--model", "rcf", "--precision", "bf16", cwd=folder)
    assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (
        1,
        "rsr embed: e: the records are computed in bf16, those in parts in fp32; pass the settings that they were made "
        "with, or another directory to --parts",
    )
    assert rsr(*embed, "--model", "rcf", cwd=folder).returncode == 0
    assert sum(part["count"] for part in state(folder / "e")["parts"]) == len(few.splitlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_that_is_stopped_says_what_is_lost_and_what_keeps_it(folder, number):
    command = [*RSR, "binarize", "-o", "out.geojsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=folder, stderr=subprocess.PIPE) as process:
        process.stdin.write((folder / "in.geojsonl").read_bytes())
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in folder.glob(".rsr-*.tmp")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(number)
        process.stdin.close()
        assert process.wait() == STATUS[number]
        assert process.stderr.read().decode() == (
            f"rsr binarize: stopped by {signal.Signals(number).name}: 50 records were made, and are lost with "
            "out.geojsonl; --parts DIRECTORY keeps what is done\n"
        )
    assert [path.name for path in folder.iterdir()] == ["in.geojsonl"]

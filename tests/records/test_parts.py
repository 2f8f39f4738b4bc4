"""Records in parts: what is done stays done, and a run makes what is missing."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from support import drawn_lines, drawn_record, needs_torch

from rsr_cli.core.errors import Skips
from rsr_cli.core.index.reading import Index
from rsr_cli.core.records.parts import Shard
from rsr_cli.core.records.streams import read

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
    unnamed = "rsr binarize: cut/part-0-00000[34].parquet: does not count yet, and is made again\n"
    unnamed = f"({unnamed})?" if number == signal.SIGKILL else ""
    assert re.fullmatch(f"{unnamed}rsr binarize: cut: {count} records in it already\n", done.stderr.decode())
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


def test_info_states_parts_shards_and_bytes_and_check_is_for_indexes(rsr, folder, binarize):
    for shard in ("0/2", "1/2"):
        binarize("--shard", shard)
    paths = list((folder / "p").glob("*.parquet"))
    stated = orjson.loads(rsr("info", "--json", "p", cwd=folder).stdout)
    size = sum(path.stat().st_size for path in paths)
    assert [stated[name] for name in ("bytes", "parts", "shards")] == [size, len(paths), 2]
    done = rsr("check", "p", cwd=folder)
    says = "rsr check: p: is a directory of parts, and no index; rsr info compares the checksums of parts\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", says)


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
        f"rsr index: p: {says}; run again the command that writes them; rsr info, index, embed, fit, transform and"
        " binarize read the rest with --allow-missing\n"
    )
    done = rsr("index", "p", "-o", "i.rsr", "--allow-missing", cwd=folder)
    rest = f"p: {says}; the rest is read\n"
    assert (done.returncode, done.stderr.decode()) == (0, f"rsr index: {rest}")
    with Index(folder / "i.rsr") as index:
        assert index.manifest.count == N - 8
    done = rsr("info", "p", "--json", "--allow-missing", cwd=folder)
    assert (orjson.loads(done.stdout)["records"], done.stderr.decode()) == (
        N - 8,
        f"rsr info: p: {says}; the rest is read\n",
    )
    done = binarize("--part-format", ending)
    assert done.returncode == 0
    assert f"rsr binarize: p: {says}; made again as far as the input has it\n" in done.stderr.decode()
    assert contents(folder / "p") == before
    assert rsr("index", "p", "-o", "i.rsr", "--overwrite", cwd=folder).returncode == 0


def without(lines: bytes, *numbers: int) -> bytes:
    return b"".join(line for i, line in enumerate(lines.splitlines(keepends=True)) if i not in numbers)


LOST = re.compile(
    r"rsr binarize: p: (has \d+ of the 50 records that it had before parts were lost|"
    "lost parts, and the input lacks records that they were made of); pass all that it was made of, or --keep-going to"
    " go on without\n"
)
ADDED = b"".join(orjson.dumps(drawn_record(f"new{i}")) + b"\n" for i in range(20))


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        without(drawn_lines(N), *range(16, 24)),
        without(drawn_lines(N), 20),
        without(drawn_lines(N), *range(16, 24)) + ADDED,
        ADDED + without(drawn_lines(N), 22, 23),
        ADDED,
    ],
)
@pytest.mark.parametrize("data", [b"damaged", None])
def test_what_was_lost_is_not_forgotten(rsr, folder, binarize, lines, data):
    """Not by a run whose input lacks it, whatever else that makes; and an input that has it is enough."""
    binarize()
    before = contents(folder / "p")
    path = folder / "p" / "part-0-000003.parquet"
    path.unlink()
    if data:
        path.write_bytes(data)
    for _ in range(2):
        done = binarize("--quiet", input=lines)
        assert (done.returncode, bool(LOST.fullmatch(done.stderr.decode()))) == (1, True)
        assert rsr("info", "p", cwd=folder).returncode == 1
    assert binarize().returncode == 0
    assert rsr("info", "p", cwd=folder).returncode == 0
    added = [f"new{i}" for i in range(20)] if ADDED in lines else []
    assert sorted(ids(folder / "p")) == sorted([*added, *(f"t{i}" for i in range(N))])
    assert contents(folder / "p") == before or b'"t22"' in lines or added


def test_what_was_lost_may_be_gone_without(rsr, folder, binarize):
    binarize()
    (folder / "p" / "part-0-000003.parquet").unlink()
    done = binarize("--keep-going", input=ADDED)
    assert (done.returncode, b"input lacks records that they were made of; pass" in done.stderr) == (3, True)
    assert orjson.loads(rsr("info", "--json", "p", cwd=folder).stdout)["records"] == N - 8 + 20
    assert binarize().returncode == 0
    assert len(set(ids(folder / "p"))) == len(ids(folder / "p")) == N + 20


def test_what_was_lost_is_made_again_by_several_runs(rsr, folder, binarize):
    """Of which the first ones fail, as an input that is a stream may, and in parts of another size."""
    binarize()
    for number in (2, 3, 4):
        (folder / "p" / f"part-0-{number:06}.parquet").unlink()
    for count in (16, 24):
        assert binarize(size=5, input=drawn_lines(count) + b"broken\n").returncode == 1
        assert rsr("info", "p", cwd=folder).returncode == 1
    assert binarize(size=5).returncode == 0
    assert rsr("info", "p", cwd=folder).returncode == 0
    assert sorted(ids(folder / "p")) == sorted(f"t{i}" for i in range(N))


def test_what_was_lost_is_counted_once(folder, binarize):
    """Where a part is made in the place of a smaller one, and others are still lost."""
    for count in (18, 34):  # into parts of 8, 8, 2, 8 and 8
        assert binarize(input=drawn_lines(count)).returncode == 0
    for number in (3, 5):
        (folder / "p" / f"part-0-{number:06}.parquet").unlink()
    done = binarize(input=without(drawn_lines(34), 30, 33))
    assert (done.returncode, b"has 32 of the 34 records" in done.stderr) == (1, True)
    assert binarize(input=drawn_lines(34)).returncode == 0
    assert sorted(ids(folder / "p")) == sorted(f"t{i}" for i in range(34))


def test_a_part_that_comes_back_after_others_took_its_place(folder, binarize):
    binarize()
    before = contents(folder / "p")
    for number in (2, 3):
        (folder / "p" / f"part-0-{number:06}.parquet").unlink()
    assert binarize(size=12, input=drawn_lines(20) + b"broken\n").returncode == 1
    (folder / "p" / "part-0-000003.parquet").write_bytes(before["part-0-000003.parquet"])
    assert binarize().returncode == 0
    assert sorted(ids(folder / "p")) == sorted(f"t{i}" for i in range(N))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Path.mkdir, "is a directory"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to(path.name), "too many levels of symbolic links"),
    ],
)
def test_a_part_that_cannot_be_read_is_not_made_again(folder, binarize, make, says):
    binarize()
    path = folder / "p" / "part-0-000003.parquet"
    path.unlink()
    make(path)
    before = state(folder / "p")
    done = binarize()
    says = f"rsr binarize: p/{path.name}: cannot be read: {says}\n"
    assert (done.returncode, done.stderr.decode()) == (1, says)
    assert path.lstat()
    assert state(folder / "p") == before


def test_a_part_whose_records_have_no_ids(folder, binarize):
    binarize("--part-format", "geojsonl")
    facts = state(folder / "p")
    path = folder / "p" / facts["parts"][0]["name"]
    path.write_bytes(re.sub(rb'"id":"t\d+",', b"", path.read_bytes()))
    facts["parts"][0] |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "p" / "shard-0.json").write_bytes(orjson.dumps(facts))
    done = binarize("--keep-going", "--part-format", "geojsonl")
    assert (done.returncode, b"bug" in done.stderr) == (3, False)


def test_the_default_is_no_other_setting(folder, binarize):
    assert binarize("--method", "lsh", "--bits", 8).returncode == 0
    assert binarize("--method", "lsh", "--bits", 8, "--seed", 42).returncode == 0
    done = binarize("--method", "lsh", "--bits", 8, "--seed", 0)
    assert (done.returncode, b"made with seed 42, and this run is with seed 0" in done.stderr) == (2, True)


def test_records_in_parts_are_deleted_from_an_index(rsr, folder, binarize):
    binarize()
    index = ["index", "-o", "i.rsr"]
    assert rsr(*index, "p", cwd=folder).returncode == 0
    (folder / "p" / "part-0-000003.parquet").unlink()
    assert rsr(*index, "--delete", "p", cwd=folder).returncode == 1
    assert rsr(*index, "--delete", "p", "--allow-missing", cwd=folder).returncode == 0
    assert orjson.loads(rsr("info", "--json", "i.rsr", cwd=folder).stdout)["records"] == 8
    done = rsr(*index, "--compact", "--allow-missing", cwd=folder)
    assert (done.returncode, b"--allow-missing is for records that are read" in done.stderr) == (2, True)


def test_shards_together_are_all_records(rsr, folder, binarize):
    """Those of an array of which two tasks are run again too, whose count of tasks is another one."""
    for number in (0, 1, 3):
        assert binarize("--shard", f"{number}/4").returncode == 0
    done = rsr("index", "p", "-o", "i.rsr", cwd=folder)
    assert (done.returncode, b"p: shard 2 of 4 is missing; run again" in done.stderr) == (1, True)
    env = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1"}
    assert binarize("--shard", "slurm/4", env=env).returncode == 0
    assert rsr("index", "p", "-o", "i.rsr", cwd=folder).returncode == 0
    assert sorted(ids(folder / "p")) == sorted(f"t{i}" for i in range(N))
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
            2,
            "p: holds parts made with method 'rotated', and this run is with method 'lsh'; pass the settings that ",
        ),
        (
            ["--keep-embedding"],
            2,
            "p: holds parts made without keep_embedding, and this run is with keep_embedding True; ",
        ),
        (
            ["--part-format", "geojsonl"],
            2,
            "p: holds parts made with part_format 'parquet', and this run is with part_",
        ),
        (["--shard", "0/2"], 2, "p: holds parts of 1 shard, and this is one of 2; pass another directory to --parts"),
        (["--parts", "other"], 1, "other: has other files than parts in it; pass another directory to --parts"),
        (["--parts", "-"], 2, "invalid value for '--parts': - is a stream, and a directory is needed"),
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
@pytest.mark.parametrize("damaged", [False, True])
def test_what_does_not_fit_is_refused_and_loses_nothing(
    folder, binarize, monkeypatch, arguments, status, says, damaged
):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").write_text("mine")
    binarize()
    if damaged:
        (folder / "p" / "part-0-000002.parquet").write_bytes(b"damaged")
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


def test_parts_that_are_being_made_are_called_so(rsr, folder, binarize):
    binarize()
    (folder / "p" / "shard-0.json").unlink()
    with (folder / "p" / "shard-0.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = rsr("info", "p", cwd=folder)
    assert (done.returncode, done.stderr[:38]) == (1, b"rsr info: p: shard 0 is being made; ru")


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


def test_a_default_that_is_typed_is_no_other_setting(rsr, folder, binarize):
    """Of the embeddings that rsr transform makes too, whose default is another one."""
    typed = (("--method", "rotated"), ("--seed", "0"), ())
    for options in (*typed, *typed[::-1]):
        assert binarize(*options).returncode == 0
    shutil.rmtree(folder / "p")
    fit = rsr("fit", "--method", "itq", "--bits", "8", "-o", "itq.st", "in.geojsonl", cwd=folder)
    turned = rsr("transform", "--with", "itq.st", "in.geojsonl", cwd=folder).stdout
    assert fit.returncode == 0
    for options in ((), ("--method", "sign"), ()):
        assert binarize("-", *options, input=turned).returncode == 0
    done = binarize("-", "--method", "rotated", input=turned)
    assert (done.returncode, b"p: holds parts made with method 'sign'" in done.stderr) == (2, True)


def test_other_settings_are_refused_where_nothing_is_missing(folder, binarize):
    """Or a run with them would end as if what is there had been made with them."""
    binarize()
    before = contents(folder / "p")
    done = binarize("--method", "lsh", "--bits", "16")
    assert (done.returncode, b"p: holds parts made with method 'rotated'" in done.stderr) == (2, True)
    assert contents(folder / "p") == before


@pytest.mark.parametrize("lines", [b"{}", drawn_lines(3) + drawn_lines(1, dim=8)])
def test_a_run_that_fails_before_its_first_part_leaves_the_settings_open(folder, binarize, lines):
    done = binarize("--method", "lsh", "--bits", "8", input=lines)
    assert done.returncode == 1
    assert not (folder / "p").exists()
    assert binarize().returncode == 0


def test_settings_of_which_no_part_was_made_bind_nobody_but_who_is_at_it(folder, binarize):
    assert binarize("--method", "lsh", "--bits", "8", "--shard", "1/2").returncode == 0
    for path in (folder / "p").glob("*-1*"):  # as a run that is killed before its first part leaves it
        path.unlink()
    with (folder / "p" / "shard-1.lock").open("w") as file:  # as one that is at it holds it
        fcntl.flock(file, fcntl.LOCK_EX)
        assert binarize("--shard", "0/2").returncode == 2
    (folder / "p" / ".rsr-0.tmp").touch()
    assert binarize("--shard", "0/2").returncode == 0


def test_a_shard_without_records_binds_nobody(folder, binarize):
    line = drawn_lines(1)
    own, other = sorted(range(2), key=lambda number: not Shard(number, 2).takes(["t0"])[0])
    for shard in (other, own):
        assert binarize("--method", "lsh", "--bits", "8", "--shard", f"{shard}/2", input=line).returncode == 0
    for path in (folder / "p").glob(f"*-{own}*"):  # as a run that is killed before its first part leaves it
        path.unlink()
    assert binarize("--shard", f"{own}/2", input=line).returncode == 0


def test_an_id_that_is_there_twice_is_refused_in_every_run(folder, binarize):
    """By one that goes on too: were the second one taken for done, its record would be lost without a word."""
    lines = drawn_lines(20).splitlines(keepends=True)
    twice = b"".join([*lines[:15], lines[3], *lines[15:]])
    says = b"<stdin>:16: has the id of an earlier record; "
    for _ in range(2):
        done = binarize(input=twice)
        assert (done.returncode, says in done.stderr) == (1, True)
    for _ in range(2):
        done = binarize("--keep-going", input=twice)
        assert (done.returncode, says in done.stderr) == (3, True)
    assert ids(folder / "p") == [f"t{i}" for i in range(20)]


def test_codes_of_other_embeddings_are_refused_where_all_ids_are_there(folder, binarize):
    binarize()
    before = contents(folder / "p")
    done = binarize(input=(folder / "in.geojsonl").read_bytes().replace(b'"fingerprint":"f"', b'"fingerprint":"g"'))
    says = b"p: holds parts made with vectors 'f', and this run is with vectors 'g'; pass the settings"
    assert (done.returncode, says in done.stderr) == (2, True)
    assert binarize().returncode == 0
    assert contents(folder / "p") == before


def test_ids_are_not_made_anew_as_tables_are_added(rsr, folder):
    """Those of the first table would be others, and its records there twice."""
    for name, names in (("a", "pqr"), ("b", "rs")):
        vectors = pa.array([[float(ord(each)), 1.0] for each in names], pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": list(names), "embedding": vectors}), folder / f"{name}.parquet")
    binarize = ["binarize", "--space", "z", "--parts", "p"]
    assert rsr(*binarize, "a.parquet", cwd=folder).returncode == 0
    done = rsr(*binarize, "a.parquet", "b.parquet", cwd=folder)
    assert (done.returncode, b"a.parquet: has ids that another file has too; if another" in done.stderr) == (1, True)
    assert ids(folder / "p") == ["p", "q", "r"]


def test_shards_of_which_none_has_a_record_are_counted_too(rsr, folder, binarize):
    line = drawn_lines(1)
    (own,) = (number for number in range(2) if Shard(number, 2).takes(["t0"])[0])
    assert binarize("--shard", f"{1 - own}/2", input=line).returncode == 0
    done = rsr("info", "p", cwd=folder)
    assert (done.returncode, f"p: shard {own} of 2 is missing".encode() in done.stderr) == (1, True)
    done = binarize("--shard", "0/3", input=line)
    assert (done.returncode, b"p: holds parts of 2 shards, and this is one of 3" in done.stderr) == (2, True)
    assert binarize("--shard", f"{own}/2", input=line).returncode == 0
    assert ids(folder / "p") == ["t0"]


def test_parts_that_are_not_named_are_not_removed(folder, binarize):
    binarize()
    (folder / "p" / "shard-0.json").unlink()
    before = contents(folder / "p")
    done = binarize("--method", "lsh", "--bits", 8)
    says = (
        "rsr binarize: p: has 7 parts that shard-0.json does not name; restore that file, or remove them to make them"
    )
    assert (done.returncode, done.stderr.decode()[: len(says)]) == (1, says)
    assert contents(folder / "p") == before


def test_no_records_make_no_parts(rsr, folder, binarize):
    assert binarize(input=b"").returncode == 0
    assert orjson.loads(rsr("info", "--json", "p", cwd=folder).stdout)["records"] == 0
    assert binarize().returncode == 0
    assert orjson.loads(rsr("info", "--json", "p", cwd=folder).stdout)["records"] == N


DAMAGE = {
    "parts.json": [
        {"settings": 5},
        {"shards": "x"},
        {"shards": 0},
        {"shards": 10**12},
        {"space": "x"},
        {"space": {}},
    ],
    "shard-0.json": [
        {"of": "x"},
        {"of": 0},
        {"of": 1.5},
        {"of": 10**12},
        {"parts": {}},
        {"parts": [5]},
        {"complete": "no"},
        {"had": "x"},
        {"sought": ["x"]},
    ],
    "part": [
        {"name": 5},
        {"name": "x"},
        {"name": "../x.parquet"},
        {"name": "part-1-000001.parquet"},
        {"count": "x"},
        {"size": None},
        {"skipped": 5},
        {"skipped": [5]},
        {"sample": ["x"]},
    ],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in DAMAGE for change in DAMAGE[name]])
def test_what_states_the_parts_is_checked(rsr, folder, binarize, name, change):
    binarize()
    path = folder / "p" / ("shard-0.json" if name == "part" else name)
    facts = orjson.loads(path.read_bytes())
    (facts["parts"][0] if name == "part" else facts).update(change)
    path.write_bytes(orjson.dumps(facts))
    remedy = "remove the directory" if name == "parts.json" else "restore it, or remove it and the parts of its shard"
    for done in (rsr("info", "p", cwd=folder), binarize()):
        assert (done.returncode, f"p/{path.name}: is damaged; {remedy}".encode() in done.stderr) == (1, True)
    assert not (folder / "p" / "shard-0.lock").exists()


@pytest.mark.parametrize("lines", [b"{", b"[]", b"\xff", b"", b"null"])
def test_a_shard_whose_file_is_damaged_is_made_again_and_stops_no_other(rsr, folder, binarize, lines):
    for shard in ("0/2", "1/2"):
        binarize("--shard", shard)
    before = contents(folder / "p")
    (folder / "p" / "shard-1.json").write_bytes(lines)
    assert binarize("--shard", "0/2").returncode == 0
    assert binarize("--shard", "1/2").returncode == rsr("info", "p", cwd=folder).returncode == 1
    done = rsr("info", "--json", "p", "--allow-missing", cwd=folder)
    others = orjson.loads(done.stdout)["records"]
    assert (others, done.stderr.count(b"shard-1.json is damaged; the rest is read")) == (
        len(shard_ids(folder / "p", 0)),
        1,
    )
    for path in (folder / "p" / "shard-1.json", *(folder / "p").glob("part-1-*")):  # as the message says
        path.unlink()
    assert binarize("--shard", "1/2").returncode == 0
    assert contents(folder / "p") == before


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
        2,
        "rsr embed: e: holds parts made with precision 'fp32', and this run is with precision 'bf16'; pass the "
        "settings that they were made with, or another directory to --parts",
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


# Tiles ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path, write_raster):
    """Write ten scenes of 2 x 3 tiles, and return their directory."""
    for i in range(10):
        pixels = np.random.default_rng(i).integers(1, 255, (3, 64, 96)).astype("uint8")
        write_raster(tmp_path / "scenes" / f"s_{i}_0.tif", pixels)
    return tmp_path / "scenes"


@pytest.fixture
def tile(rsr, scenes):
    """Return a function that tiles the scenes into parts of 12 tiles, which are two scenes."""

    def run(*arguments, to="t"):
        given = [
            "--sensor",
            "rgb",
            "--scale",
            1,
            "--offset",
            0,
            *([] if {"--whole", "--grid"} & {*arguments} else ["--size", 32]),
        ]
        into = ["--parts", to, "--part-size", 12] if to else []
        return rsr("tile", *given, *into, *arguments, scenes.name, cwd=scenes.parent)

    return run


def stop_after(directory, count) -> None:
    """Leave a directory of parts as a run does that is killed after some of them."""
    facts = state(directory)
    for part in facts["parts"][count:]:
        (directory / part["name"]).unlink()
    (directory / "shard-0.json").write_bytes(orjson.dumps(facts | {"parts": facts["parts"][:count], "complete": False}))


def records(*paths) -> list[dict]:
    return [record for batch in read(list(map(str, paths)), Skips()) for record in batch.records]


@pytest.mark.parametrize(
    ("how", "size"),
    [([], 12), (["--whole"], 2), (["--edge", "pad", "--stride", 30], 24), (["--grid", "major-tom:300m"], 8)],
)
@pytest.mark.parametrize("ending", ["parquet", "geojsonl"])
def test_tiles_in_parts_are_those_of_a_file(scenes, tile, how, size, ending):
    parts = ["--part-format", ending, "--part-size", size]
    done = tile(*how, *parts)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    here = scenes.parent
    assert tile(*how, "-o", "all.parquet", to=None).returncode == 0
    assert records(here / "t") == records(here / "all.parquet")
    before, made = contents(here / "t"), state(here / "t")["parts"]
    assert len(made) == 5
    for count in (0, 1, 4):
        stop_after(here / "t", count)
        done = tile(*how, *parts)
        there = f"rsr tile: t: {2 * count} scenes in it already\n" if count else ""
        assert (done.returncode, done.stderr.decode()) == (0, there)
        assert contents(here / "t") == before


def test_scenes_that_were_lost_are_not_forgotten(rsr, scenes, tile):
    tile()
    before = contents(scenes.parent / "t")
    (scenes.parent / "t" / "part-0-000003.parquet").unlink()
    moved = [(scenes / f"s_{i}_0.tif").rename(scenes.parent / f"s_{i}_0.tif") for i in (4, 5)]
    says = b"rsr tile: t: has 8 of the 10 scenes that it had before parts were lost; pass all that it was made of, or"
    done = tile()
    assert (done.returncode, done.stderr.splitlines()[-1][: len(says)]) == (1, says)
    assert rsr("info", "t", cwd=scenes.parent).returncode == 1
    for path in moved:
        path.rename(scenes / path.name)
    assert tile().returncode == 0
    assert contents(scenes.parent / "t") == before
    assert tile("--min-valid", 0.5).returncode == 0
    done = tile("--min-valid", 0)
    assert (done.returncode, b"made with min_valid 0.5, and this run is with min_valid 0.0" in done.stderr) == (2, True)


def test_added_scenes_make_new_parts(rsr, scenes, tile):
    tile()
    before = contents(scenes.parent / "t")
    (scenes / "r.tif").write_bytes((scenes / "s_3_0.tif").read_bytes())
    assert tile().stderr == b"rsr tile: t: 10 scenes in it already\n"
    after = contents(scenes.parent / "t")
    assert {*after} - {*before} == {"part-0-000006.parquet"}
    assert {name: after[name] for name in before if name != "shard-0.json"} == {
        name: data for name, data in before.items() if name != "shard-0.json"
    }
    embedded = rsr("info", "--json", "t", cwd=scenes.parent)
    assert orjson.loads(embedded.stdout)["records"] == 66


def test_shards_have_whole_scenes(scenes, tile):
    """Of a stream as in parts: those of their ids' shares."""
    for number in range(3):
        assert tile("--shard", f"{number}/3").returncode == 0
    own = [{name.rsplit("_", 2)[0] for name in shard_ids(scenes.parent / "t", number)} for number in range(3)]
    assert own == [{f"s_{i}_0" for i in range(10) if Shard(number, 3).takes([f"s_{i}_0"])[0]} for number in range(3)]
    assert len(records(scenes.parent / "t")) == 60
    streams = [tile("--shard", f"{number}/3", to=None).stdout.splitlines() for number in range(3)]
    assert [{orjson.loads(line)["id"].rsplit("_", 2)[0] for line in lines} for lines in streams] == own


def test_what_was_skipped_does_not_move_the_parts_of_a_run_that_goes_on(scenes, tile):
    """It is tried again once the others are there, and then is in parts of its own."""
    here, broken = scenes.parent, [scenes / f"s_{i}_0.tif" for i in (0, 1, 2, 5)]
    sound = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(b"no raster")
    done = tile("--keep-going")
    assert (done.returncode, done.stderr.count(b"skipped\n")) == (3, 5)
    before = contents(here / "t")
    for count in (1, 2):
        stop_after(here / "t", count)
        done = tile("--keep-going")
        assert done.returncode == 3
        assert f"rsr tile: t: an earlier run skipped {4 if count == 2 else 3} scenes; run " in done.stderr.decode()
        assert contents(here / "t") == before
    stop_after(here / "t", 2)
    assert tile().returncode == 1  # a run that may skip nothing puts nothing off
    for path, data in zip(broken, sound, strict=True):
        path.write_bytes(data)
    done = tile("--keep-going")
    assert (done.returncode, b"an earlier run skipped 4 scenes" in done.stderr) == (3, True)
    done = tile("--keep-going")
    assert (done.returncode, done.stderr.decode()) == (0, "rsr tile: t: 6 scenes in it already\n")
    after = contents(here / "t")
    assert all(after[name] == before[name] for name in before if name.startswith("part-"))
    assert {record["id"].rsplit("_", 2)[0] for record in records(here / "t")} == {f"s_{i}_0" for i in range(10)}


def test_a_run_that_fails_on_what_was_added_leaves_no_complete_directory(rsr, scenes, tile):
    tile()
    assert tile("--files-from", "nothing").returncode == 1
    assert rsr("info", "t", cwd=scenes.parent).returncode == 0  # it had read nothing
    (scenes / "t.tif").write_bytes(b"no raster")
    assert tile().returncode == 1
    done = rsr("info", "t", cwd=scenes.parent)
    assert (done.returncode, b"t: shard 0 is not complete" in done.stderr) == (1, True)
    (scenes / "t.tif").unlink()
    assert tile().returncode == 0
    assert rsr("info", "t", cwd=scenes.parent).returncode == 0


def test_tiles_that_were_skipped_in_a_scene_are_tried_again(scenes, tile, write_raster):
    """And no tile is there twice."""
    path, here = scenes / "s_2_0.tif", scenes.parent
    sound = damage(path, write_raster)
    for _ in range(2):
        done = tile("--keep-going", "--nodata", 0)
        assert (done.returncode, done.stderr.count(b"(tile s_2_0_32_32); skipped")) == (3, 1)
        assert len(records(here / "t")) == 59
    assert tile("--nodata", 0).returncode == 1
    stop_after(here / "t", 3)
    done = tile("--keep-going", "--nodata", 0)
    assert (done.returncode, b"an earlier run skipped 1 scene" in done.stderr) == (3, True)
    path.write_bytes(sound)
    for _ in range(2):
        assert tile("--nodata", 0).returncode == 0
        names = [record["id"] for record in records(here / "t")]
        assert (len(names), len(set(names)), "s_2_0_32_32" in names) == (60, 60, True)
    for lost in ("part-0-000002.parquet", "part-0-000006.parquet"):  # which both have tiles of it
        (here / "t" / lost).unlink()
        path.rename(here / "away.tif")
        (scenes / f"new_{lost[11]}.tif").write_bytes((scenes / "s_4_0.tif").read_bytes())
        done = tile("--nodata", 0)
        assert (done.returncode, b"lost" in done.stderr) == (1, True)
        (here / "away.tif").rename(path)
        (scenes / "bad.tif").write_bytes(b"unreadable")
        assert tile("--nodata", 0).returncode == 1
        done = tile("--nodata", 0, "--keep-going")
        assert (done.returncode, done.stderr.count(b"; skipped"), b"lost" in done.stderr) == (3, 1, False)
        found = [record["id"] for record in records(here / "t")]
        assert sorted(name for name in found if name[0] == "s") == sorted(names)
        (scenes / "bad.tif").unlink()
        assert tile("--nodata", 0).returncode == 0
        assert b'"sought": []' in (here / "t" / "shard-0.json").read_bytes()


def damage(path, write_raster) -> bytes:
    """Write a scene of which one tile cannot be read, and return it as it would be without."""
    numbers = np.random.default_rng(2).integers(1, 255, (3, 64, 96)).astype("uint8")
    write_raster(
        path, numbers, compress="deflate", tiled=True, blockxsize=32, blockysize=32, interleave="pixel", nodata=0
    )
    sound = path.read_bytes()
    with rasterio.open(path) as raster:
        offset = int(raster.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", 1))
    path.write_bytes(sound[:offset] + bytes(400) + sound[offset + 400 :])
    return sound


def test_a_scene_that_is_made_again_in_two_goes(scenes, tile, write_raster):
    path, here = scenes / "s_2_0.tif", scenes.parent
    sound = damage(path, write_raster)
    damaged = path.read_bytes()
    path.write_bytes(sound)
    assert tile("--nodata", 0).returncode == 0
    facts = state(here / "t")
    for number in (2, 3):
        (here / "t" / f"part-0-00000{number}.parquet").unlink()
    path.write_bytes(damaged)
    assert tile("--keep-going", "--nodata", 0).returncode == 3
    lost = {"had": 10, "sought": sorted(facts["parts"][1]["sample"] + facts["parts"][2]["sample"])}
    now = state(here / "t") | lost | {"complete": False}  # as a run leaves it that is killed at its end
    (here / "t" / "shard-0.json").write_bytes(orjson.dumps(now))
    done = tile("--nodata", 0)
    assert done.returncode == 1
    path.write_bytes(sound)
    done = tile("--nodata", 0)
    assert (done.returncode, done.stderr.decode()) == (0, "rsr tile: t: 9 scenes in it already\n")
    assert len({record["id"] for record in records(here / "t")}) == len(records(here / "t")) == 60


def test_a_part_without_a_whole_scene_is_lost(scenes, tile, write_raster):
    path, here = scenes / "s_2_0.tif", scenes.parent
    for each in scenes.iterdir():
        if each != path:
            each.unlink()
    sound = damage(path, write_raster)
    assert tile("--keep-going", "--nodata", 0).returncode == 3
    path.write_bytes(sound)
    assert tile("--nodata", 0).returncode == 0
    facts = state(here / "t")
    assert [part["origins"] for part in facts["parts"]] == [0, 0]
    (here / "t" / "part-0-000002.parquet").unlink()
    (here / "t" / "shard-0.json").write_bytes(orjson.dumps(facts | {"complete": False}))
    assert tile("--keep-going", "--nodata", 0).returncode == 0
    assert len({record["id"] for record in records(here / "t")}) == len(records(here / "t")) == 6


def test_a_scene_that_gives_fewer_tiles_than_it_did_is_no_loss(scenes, tile, write_raster):
    assert tile("--nodata", 0).returncode == 0
    pixels = np.random.default_rng(2).integers(1, 255, (3, 64, 96)).astype("uint8")
    pixels[:, :40] = 0
    write_raster(scenes / "s_2_0.tif", pixels)
    (scenes.parent / "t" / "part-0-000002.parquet").unlink()
    assert tile("--nodata", 0).returncode == 0
    assert len(records(scenes.parent / "t")) == 57


def test_settings_stay_until_the_parts_that_were_lost_are_made_again(scenes, tile):
    tile()
    before = contents(scenes.parent / "t")
    for path in (scenes.parent / "t").glob("part-*"):
        path.unlink()
    sound = (scenes / "s_0_0.tif").read_bytes()
    (scenes / "s_0_0.tif").write_bytes(b"unreadable")
    assert tile().returncode == 1
    (scenes / "s_0_0.tif").write_bytes(sound)
    done = tile("--stride", 16)
    assert (done.returncode, b"made with stride 32" in done.stderr) == (2, True)
    for name in ("part-0-000002.parquet", "part-0-000004.parquet"):  # as from a backup
        (scenes.parent / "t" / name).write_bytes(before[name])
    assert tile().returncode == 0
    assert contents(scenes.parent / "t") == before


def test_scenes_of_a_list_that_grows_keep_their_names(rsr, scenes):
    """Or those that are there would be cut again under another one."""
    here = scenes.parent
    for name in ("x", "y"):
        (here / name).mkdir()
        (here / name / "a.tif").write_bytes((scenes / "s_3_0.tif").read_bytes())
    tile = ["tile", "--sensor", "rgb", "--scale", 1, "--size", 32, "--parts", "t", "--files-from", "list"]
    (here / "list").write_text("x/a.tif\n")
    assert rsr(*tile, cwd=here).returncode == 0
    (here / "list").write_text("x/a.tif\ny/a.tif\n")
    done = rsr(*tile, cwd=here)
    says = b"y/a.tif: its tiles would have the ids of another scene, a; name the directory above both"
    assert (done.returncode, says in done.stderr) == (1, True)


def test_settings_that_json_cannot_hold(scenes, tile):
    done = tile("--id-prefix", os.fsdecode(b"\xff"))
    says = "rsr tile: t: is to hold parts made with id_prefix '\\udcff', which is not UTF-8\n"
    assert (done.returncode, done.stderr.decode()) == (2, says)


def test_chips_that_a_run_left_are_no_others(scenes, tile):
    chips = ["--chips", "chips"]
    assert tile(*chips).returncode == 0
    before = contents(scenes.parent / "t"), contents(scenes.parent / "chips")
    stop_after(scenes.parent / "t", 3)
    (scenes.parent / "chips" / "s_9_0_32_0.tif").unlink()
    assert tile(*chips).returncode == 0
    assert (contents(scenes.parent / "t"), contents(scenes.parent / "chips")) == before
    (scenes / "s_3_0.tif").write_bytes((scenes / "s_4_0.tif").read_bytes())
    done = tile(*chips, "--parts", "other")
    assert (done.returncode, b"chips/s_3_0_0_0.tif: is there already, and differs; " in done.stderr) == (1, True)
    assert contents(scenes.parent / "chips") == before[1]


def test_tiles_cut_otherwise_are_refused(scenes, tile):
    """Otherwise than they would be, whatever was typed."""
    tile()
    done = tile("--stride", 16)
    says = "rsr tile: t: holds parts made with stride 32, and this run is with stride 16; pass the settings that they "
    assert (done.returncode, done.stderr.decode()[: len(says)]) == (2, says)
    assert tile("--stride", 32).returncode == 0


@needs_torch
def test_a_directory_of_tiles_is_embedded_into_parts(rsr, scenes, tile):
    """Each command goes on where it was, in a row of them."""
    embed = ["embed", "t", "--model", "rcf", "--bands", "red,green,blue", "--parts"]
    tile()
    done = rsr(*embed, "t", cwd=scenes.parent)
    assert (done.returncode, b"t: holds parts that rsr tile made, and this is rsr embed" in done.stderr) == (2, True)
    assert rsr(*embed, "e", cwd=scenes.parent).returncode == 0
    before = contents(scenes.parent / "e")
    stop_after(scenes.parent / "t", 2)
    done = rsr(*embed, "e", cwd=scenes.parent)
    assert (done.returncode, b"t: shard 0 is not complete; run again" in done.stderr) == (1, True)
    tile()
    assert rsr(*embed, "e", cwd=scenes.parent).returncode == 0
    assert contents(scenes.parent / "e") == before
    assert ids(scenes.parent / "e") == ids(scenes.parent / "t")


def test_a_directory_above_parts_is_not_read_as_a_folder_of_tables(rsr, scenes, tile):
    assert tile("--parts", "t").returncode == 0
    (scenes.parent / "above").mkdir()
    (scenes.parent / "t").rename(scenes.parent / "above" / "t")
    done = rsr("info", "above", cwd=scenes.parent)
    says = "rsr info: above/t: is below the directory, and holds parts; name the directories of parts, each by itself\n"
    assert (done.returncode, done.stderr.decode()) == (1, says)


def test_a_folder_of_tables_with_files_of_others_named_after_shards_is_no_parts(rsr, folder, binarize):
    assert binarize().returncode == 0
    (folder / "theirs").mkdir()
    (folder / "p" / "part-0-000001.parquet").rename(folder / "theirs" / "a.parquet")
    (folder / "theirs" / "shard-0.json").write_bytes(b'{"samples": 8}')
    (folder / "p" / "shard-(.json").write_bytes(b"{}")
    assert rsr("info", "p", cwd=folder).stderr.startswith(b"rsr info: p: part-0-000001.parquet is missing; ")
    assert orjson.loads(rsr("info", "--json", "theirs", cwd=folder).stdout)["records"] == 8

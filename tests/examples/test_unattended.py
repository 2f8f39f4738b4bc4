"""The examples in examples/unattended/, each run by the program that it is for."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from support import needs_torch
from support_rasters import SENTINEL2, SIX, bands_of, grid

from rsr_cli.core.index.reading import Index
from rsr_cli.core.records.parts import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = needs_torch

EXAMPLES = Path(__file__).parents[2] / "examples" / "unattended"
SHARDS = 8
KILLED = (2, 5)


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait for a condition, and fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def skip_without(*programs: str) -> None:
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)}: not installed")


@contextmanager
def apart(script: str, folder: Path) -> Iterator[Path]:
    """Run daemons that a shell script starts where they end with it, whatever they have started; yield their log.

    They are in namespaces of processes and mounts of their own, whose first process reads this one's pipe until it is
    closed. It ends then, even if this process was killed, and the kernel with it every process there is.
    """
    own = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
    if os.geteuid() != 0 or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("daemons are run by root, in a namespace of their own")
    log = folder / "daemons.log"
    with log.open("wb") as file:
        command = [*own, "sh", "-euc", f"{script}\nread -r _ || true"]
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=file, stderr=file)
    try:
        yield log
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def env(warm_path, tmp_path) -> dict[str, str]:
    """Return an environment in which rsr starts at once and embeds with a model that needs no weights."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RSR_", "SLURM_", "SBATCH_"))}
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    return kept | home | {"PATH": warm_path, "OMP_NUM_THREADS": "1", "RSR_EMBED_MODEL": "rcf"}


def tiles_of(rsr, scene: str) -> list[bytes]:
    """Cut a scene into tiles of 16 pixels, and return their lines."""
    done = rsr("tile", "--size", 16, "--scale", 1, scene)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(keepends=True)


def state(parts: Path, shard: int) -> dict:
    try:
        return orjson.loads((parts / f"shard-{shard}.json").read_bytes())
    except FileNotFoundError:
        return {"parts": [], "complete": False}


def files_of(parts: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the parts that count: which files they are, when they were written, and what is in them."""
    states = (orjson.loads(path.read_bytes()) for path in parts.glob("shard-*.json"))
    names = [part["name"] for each in states for part in each["parts"]]
    return {name: ((path := parts / name).stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for name in names}


def lines_of(parts: Path) -> list[bytes]:
    return sorted(line for path in parts.glob("part-*.geojsonl") for line in path.read_bytes().splitlines())


# SLURM ---------------------------------------------------------------------------------------------------------------

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=65536
PartitionName=all Nodes=node Default=YES
"""
DAEMONS = """\
munged --foreground --force --socket="$PWD/munge.socket" --key-file="$PWD/munge.key" --log-file="$PWD/munge.log" \\
    --pid-file="$PWD/munge.pid" --seed-file="$PWD/munge.seed" &
slurmctld -D -i -f "$PWD/slurm.conf" &
slurmd -D -N node -f "$PWD/slurm.conf" &
"""


def free_ports(count: int) -> list[int]:
    """Return ports that were free at the same time."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


@pytest.fixture
def slurm(env, tmp_path, tmp_path_factory):
    """Start SLURM on one node; return a function that runs one of its programs and returns what it wrote."""
    skip_without("munged", "slurmctld", "slurmd", "sbatch", "scancel", "sinfo", "squeue")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(host=host, ports=free_ports(2), folder=folder))
    # Not the rsr that starts at once, for its process would be nobody's to kill
    (folder / "bin" / "rsr").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rsr_cli.main "$@"\n')
    (folder / "bin" / "rsr").chmod(0o755)
    env |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def run(*command: object, **files: object) -> str:
        more = {name: str(path) for name, path in files.items()}
        done = subprocess.run(
            [*map(str, command)], env=env | more, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    sinfo = {"args": ["sinfo", "-h", "-o", "%T"], "env": env, "capture_output": True, "check": False}
    with apart(DAEMONS, folder) as log:
        until(lambda: subprocess.run(**sinfo).stdout == b"idle\n", f"the node is not idle: see {log}")
        yield run
        run("scancel", "--full", "--signal=KILL", "--user=root")


def shard_of(name: str) -> int:
    return next(shard for shard in range(SHARDS) if Shard(shard, SHARDS).takes([name])[0])


def process_of(task: int, parts: Path) -> int:
    """Return the process of rsr in a task that writes to these parts."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments, given = ((path / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:  # it has ended meanwhile
            continue
        if os.fsencode(parts) in arguments and b"SLURM_ARRAY_TASK_ID=%d" % task in given:
            return int(path.name)
    raise AssertionError(f"no process of task {task}")


def test_a_slurm_array_of_which_two_tasks_are_killed_makes_what_one_process_makes(rsr, slurm, tmp_path, write_raster):
    duckdb = pytest.importorskip("duckdb")
    # Many tiles for the tasks that are killed, which then cannot be done before they are, and few for the others
    left = Counter({shard: 120 if shard in KILLED else 4 for shard in range(SHARDS)})
    lines = []
    for line in tiles_of(rsr, write_raster(tmp_path / "scene.tif", bands_of(6, 640, 640), names=SIX)):
        shard = shard_of(orjson.loads(line)["id"])
        if left[shard]:
            left[shard] -= 1
            lines.append(line)
    assert left.total() == 0
    (tmp_path / "tiles.geojsonl").write_bytes(b"".join(lines))
    parts, index = tmp_path / "embedded", tmp_path / "lake.rsr"
    files = {"TILES": tmp_path / "tiles.geojsonl", "PARTS": parts, "INDEX": index, "RSR_EMBED_PART_SIZE": 1}

    def submit(*options: str) -> tuple[str, str]:
        """Submit the array, or some of its tasks, and the index after it, as the example says."""
        array = slurm("sbatch", "--parsable", *options, EXAMPLES / "slurm-array.sh", **files)
        after = [f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes"]
        return array, slurm("sbatch", "--parsable", *after, EXAMPLES / "slurm-index.sh", **files)

    def states(job: str) -> dict[str, str]:
        shown = slurm("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%K %T")
        return dict(line.split() for line in shown.splitlines())

    def ended(*jobs: str) -> None:
        going = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}
        until(lambda: not any(going & {*states(job).values()} for job in jobs), f"jobs do not end: {jobs}")

    array, then = submit()
    for task in KILLED:
        until(lambda task=task: state(parts, task)["parts"], f"task {task} makes no part")
        os.kill(process_of(task, parts), signal.SIGKILL)
    ended(array, then)
    assert "ExitCode=0:9" in slurm("scontrol", "show", "job", f"{array}_{KILLED[0]}")
    assert states(array) == {str(task): "FAILED" if task in KILLED else "COMPLETED" for task in range(SHARDS)}
    assert states(then) == {"N/A": "CANCELLED"}
    before = files_of(parts)
    assert all(0 < len(state(parts, task)["parts"]) < 120 for task in KILLED)

    done = rsr("index", parts, "-o", index)
    assert (done.returncode, not index.exists()) == (1, True)
    assert f"{parts}: shard 2 of 8 is not complete, shard 5 of 8 is not complete; run again" in done.stderr.decode()

    array, then = submit("--array=2,5")
    ended(array, then)
    assert states(array) == {str(task): "COMPLETED" for task in KILLED}, (tmp_path / "rsr-embed-2.log").read_text()
    assert states(then) == {"N/A": "COMPLETED"}
    after = files_of(parts)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(lines)
    with Index(index) as made:
        assert made.manifest.count == len(lines)

    # In the order of ids, they are the records of one process, vectors and all, and so are the hits
    assert rsr("embed", "--model", "rcf", files["TILES"], "-o", tmp_path / "one.parquet").returncode == 0
    hits, rows = [], []
    for name, source in (("one", tmp_path / "one.parquet"), ("eight", parts / "*.parquet")):
        ordered = tmp_path / f"{name}-ordered.parquet"
        read = f"FROM read_parquet('{source}', union_by_name=true) ORDER BY id"
        duckdb.sql(f"COPY (SELECT * {read}) TO '{ordered}'")
        rows.append(duckdb.sql(f"SELECT id, embedding {read}").fetchall())
        assert rsr("index", ordered, "-o", tmp_path / f"{name}.rsr").returncode == 0
        asked = rsr("query", tmp_path / f"{name}.rsr", "-k", 20, tmp_path / "one.parquet")
        assert asked.returncode == 0
        hits.append(asked.stdout)
    assert rows[0] == rows[1]
    assert hits[0] == hits[1]
    assert len(hits[0].splitlines()) == 20 * len(lines)


# GNU parallel, make and Snakemake ------------------------------------------------------------------------------------

COMMANDS = {
    "parallel": [EXAMPLES / "parallel.sh"],
    "make": ["make", "-j4", "-f", EXAMPLES / "Makefile"],
    "snakemake": ["snakemake", "--cores", "4", "--snakefile", EXAMPLES / "Snakefile"],
}


@pytest.mark.parametrize("tool", COMMANDS)
def test_shards_on_one_machine_are_made_once(rsr, env, tmp_path, write_raster, tool):
    """A tile of one shard cannot be read; then it can be; then there are more tiles."""
    skip_without(tool)
    scene = write_raster(tmp_path / "scene.tif", bands_of(6, 128, 128), names=SIX)
    late = write_raster(tmp_path / "late.tif", bands_of(6, 16, 16), names=SIX)
    lines = tiles_of(rsr, scene)
    (other,) = tiles_of(rsr, late)
    # Names in a Makefile cannot have spaces
    names = ("tiles.geojsonl", "embedded", "lake.rsr") if tool == "make" else ("a b.geojsonl", "c d", "e f.rsr")
    tiles, parts, index = (tmp_path / name for name in names)
    tiles.write_bytes(b"".join(lines[:48]) + other)
    env |= {"TILES": tiles.name, "PARTS": parts.name, "INDEX": index.name, "SHARDS": "4"}
    env |= {"RSR_EMBED_PART_FORMAT": "geojsonl", "RSR_EMBED_PART_SIZE": "3"}

    def run() -> subprocess.CompletedProcess[str]:
        where = {"cwd": tmp_path, "env": env, "stdin": subprocess.DEVNULL}
        return subprocess.run(COMMANDS[tool], **where, capture_output=True, text=True, timeout=120, check=False)

    (tmp_path / "late.tif").rename(tmp_path / "hidden")
    done = run()
    assert done.returncode != 0
    assert "late.tif" in done.stderr
    assert not index.exists()
    before = files_of(parts)
    assert before

    (tmp_path / "hidden").rename(tmp_path / "late.tif")
    for count in (49, 65):
        done = run()
        assert done.returncode == 0, done.stderr
        after = files_of(parts)
        assert {name: after.get(name) for name in before} == before
        whole = rsr("embed", "--model", "rcf", tiles)
        assert sorted(whole.stdout.splitlines()) == lines_of(parts)
        with Index(index) as made:
            assert made.manifest.count == count
        before = after
        tiles.write_bytes(b"".join(lines) + other)


# cron ----------------------------------------------------------------------------------------------------------------

#: cron with one crontab, and nothing of the machine's.
CRON = """\
mount -t tmpfs none /run
mount -t tmpfs none /etc/cron.d
mount --bind /dev/null /etc/crontab
mount -t tmpfs none /var/spool/cron
mkdir /var/spool/cron/crontabs
cp crontab /var/spool/cron/crontabs/root
chmod 600 /var/spool/cron/crontabs/root
cron -f &
"""


def write_product(folder: Path, write_raster) -> None:
    """Write a Sentinel-2 product of six tiles of 64 pixels."""
    for metres, bands in SENTINEL2.items():
        for band in bands:
            pixels = bands_of(1, 1440 // metres, 1920 // metres)
            write_raster(folder / f"T33UUP_{band}.tif", pixels, transform=grid(metres))


def test_cron_adds_new_scenes_and_lets_a_night_end_that_is_not_over(env, write_raster, tmp_path, tmp_path_factory):
    skip_without("cron", "flock", "unshare")
    archive, daemon = tmp_path / "archive", tmp_path_factory.mktemp("cron")
    (archive / "scenes").mkdir(parents=True)
    shutil.copy(EXAMPLES / "nightly.sh", archive)

    text = (EXAMPLES / "crontab").read_text()
    for old, new in (
        (r"^PATH=.*", f"PATH={env['PATH']}\nRSR_EMBED_MODEL=rcf\nOMP_NUM_THREADS=1"),
        (r"/archive\b", str(archive)),
        (r"^0 3 \* \* \* (.*)", r"@reboot \1 > log 2>&1; echo $? > status"),
    ):
        text, count = re.subn(old, new, text, flags=re.MULTILINE)
        assert count == 1
    (daemon / "crontab").write_text(text)

    def night() -> int:
        """Have cron run its line, as if the machine had just started; return the exit status."""
        with apart(CRON, daemon) as log:
            until(lambda: (archive / "status").exists() and (archive / "status").read_text(), f"no night: see {log}")
        status = int((archive / "status").read_text())
        (archive / "status").unlink()
        return status

    def items() -> int:
        with Index(archive / "lake.rsr") as index:
            return index.manifest.count

    write_product(archive / "scenes" / "S2A_MSIL2A_20210115T101351", write_raster)
    assert (night(), (archive / "log").read_text()) == (0, "")
    assert items() == 6

    write_product(archive / "scenes" / "S2B_MSIL2A_20210118T101351", write_raster)
    with (archive / "nightly.lock").open("w") as file:  # the last night is not over
        fcntl.flock(file, fcntl.LOCK_EX)
        assert (night(), (archive / "log").read_text()) == (1, "")
    assert items() == 6
    assert (night(), (archive / "log").read_text()) == (0, "")
    assert items() == 12

    (archive / "scenes" / "S2A_MSIL2A_20210120T101351").mkdir()
    write_product(archive / "scenes" / "S2B_MSIL2A_20210123T101351", write_raster)
    assert night() == 3
    (line,) = (archive / "log").read_text().splitlines()
    assert line.startswith(f"rsr tile: {archive}/scenes/S2A_MSIL2A_20210120T101351")
    assert items() == 18

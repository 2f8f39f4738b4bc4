"""Generations of an index: readers hold the one that they opened, writers take turns and remove what nobody holds.

A reader holds a shared lock (flock) on the file of the manifest that it read, which writes nothing. A writer that
replaces the manifest keeps the old file under ``generations/`` and removes it, with all files that no other manifest
names, once nobody holds a lock on it. On a file system of several machines (NFS, Lustre, ...) a lock may be seen on its
own machine alone, and some have no locks: there an old generation is kept for a day as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_cli.core.errors import IndexFormatError
from rsr_cli.core.files import locked, reason, remove, sync_directory
from rsr_cli.core.index.manifest import EARLIER, GENERATIONS, LOCK, MANIFEST, NAME, SEGMENTS, Manifest, numbered
from rsr_cli.core.inputs import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

log = logging.getLogger("rsr")

#: Start of the name of new segments, until they have their numbers.
NEW = "new"
#: End of the name of a manifest that is kept as a copy, on which its readers' locks are not seen.
COPY = "-copy"
#: File systems of one machine, on which a lock is seen by all that could hold one.
LOCAL = frozenset(
    ("apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "vfat", "xfs", "zfs")
)
#: How long a generation is kept on other file systems after it was replaced, whether or not a lock is seen.
GRACE_S = 24 * 3600


def hold(index: Path) -> tuple[Manifest, FileIO]:
    """Read the manifest of an index, and keep its generation until the returned file is closed.

    Raises
    ------
    IndexFormatError
        The directory is not an index, is damaged, or is of another version.
    """
    while True:
        manifest, file = Manifest.open(index, index / MANIFEST)
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile, maybe to be built again
            _lock(file, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(file.fileno()), (index / MANIFEST).stat()):
                return manifest, file
        file.close()


def _lock(file: FileIO, kind: int) -> bool:
    """Lock a file, if there are locks; return False if another process holds it and is not to be waited for."""
    try:
        fcntl.flock(file.fileno(), kind)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


@contextlib.contextmanager
def writing(index: Path) -> Iterator[Manifest | None]:
    """Wait until no other process writes to an index, and yield its manifest, ``None`` for one to be built again."""
    with locked(index / LOCK):
        try:
            last = Manifest.read(index)
        except IndexFormatError as error:
            if error.remedy != "rebuild":
                raise
            last = None
        yield last


def publish(index: Path, last: Manifest | None, manifest: Manifest, staged: Path | None = None) -> None:
    """Make a manifest the next generation of an index, whose writers' lock is held, and remove what nobody needs.

    Parameters
    ----------
    index : pathlib.Path
        The directory.
    last : Manifest or None
        The generation that is replaced, ``None`` if it cannot be read.
    manifest : Manifest
        Its follower.
    staged : pathlib.Path, optional
        Where those of its segments are that are new.
    """
    generation = last.generation + 1 if last else 1
    try:
        if staged is not None:
            taken = [int(entry.name) for entry in (index / SEGMENTS).iterdir() if re.fullmatch(NAME, entry.name)]
            manifest = place(manifest, staged, index / SEGMENTS, max([generation - 1, *taken]) + 1)
            sync_directory(index / SEGMENTS)
        if last is not None:
            (index / GENERATIONS).mkdir(exist_ok=True)
            _keep(index / MANIFEST, index / GENERATIONS, numbered(last.generation))
        replace(manifest, generation=generation).write(index)
    finally:
        retire(index)  # also what could not be published
    for name in EARLIER - {MANIFEST}:
        remove(index / name)


def place(manifest: Manifest, staged: Path, segments: Path, number: int) -> Manifest:
    """Move new segments to their place, numbered from a number on, and return the manifest with their names."""
    placed = []
    for facts in manifest.segments:
        if (staged / facts.name).exists() and not facts.name.isdecimal():
            (staged / facts.name).rename(segments / numbered(number))
            facts = replace(facts, name=numbered(number))
            number += 1
        placed.append(facts)
    return replace(manifest, segments=tuple(placed))


def _keep(manifest: Path, generations: Path, name: str) -> None:
    """Link a manifest under ``generations/``, where its readers' locks can be seen, or copy it."""
    kept = generations / f"{name}.json"
    kept.unlink(missing_ok=True)
    try:
        kept.hardlink_to(manifest)
    except OSError:  # no links, or not to another user's file
        shutil.copyfile(manifest, generations / f"{name}{COPY}.json")


def retire(index: Path) -> None:
    """Remove the generations that nobody holds, and what none of the others names: old segments and deletions.

    Nothing is removed while a manifest that may be needed cannot be read. A failure is a warning: whatever the index
    was to become, it is.
    """
    try:
        manifests = [Manifest.read(index)]
        for old in sorted((index / GENERATIONS).glob("*.json")):
            if not re.fullmatch(f"{NAME}({COPY})?", old.stem):
                continue
            if _is_held(old, index):
                manifest, opened = Manifest.open(index, old)
                opened.close()
                manifests.append(manifest)
            else:
                remove(old)
        with contextlib.suppress(OSError):
            (index / GENERATIONS).rmdir()  # if it is empty
        named = {segment.name: set[str]() for manifest in manifests for segment in manifest.segments}
        for manifest in manifests:
            for segment in manifest.segments:
                named[segment.name] |= segment.files.keys()
        for entry in (index / SEGMENTS).iterdir():
            if entry.name in named:
                for file in entry.glob("deleted-*.npy"):
                    if file.name not in named[entry.name]:
                        remove(file)
            elif re.fullmatch(f"[0-9]{{6,}}|{NEW}-[0-9a-f]+", entry.name):
                remove(entry)
    except IndexFormatError:  # such as an index that is damaged, and was to be replaced
        return
    except OSError as error:
        log.warning("%s: what is no longer needed cannot be removed: %s", index, reason(error))


def _is_held(old: Path, index: Path) -> bool:
    """Return whether a reader may hold a manifest that was replaced."""
    shows_locks = is_local(index) and not old.stem.endswith(COPY)
    if not shows_locks and (index / MANIFEST).stat().st_ctime - old.stat().st_ctime < GRACE_S:
        return True
    with open_regular(old) as file:
        return not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_local(path: Path) -> bool:
    """Return whether a path is on a file system of this machine alone."""
    try:
        text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:  # not Linux, or a Linux that does not say
        return sys.platform != "linux"
    mounts = [line.split(" ") for line in text.split("\n") if line]
    above = {str(path.absolute()), *map(str, path.resolve().parents), str(path.resolve())}
    # the longest path counts, and of several mounts there the last
    found = [(len(mount[4]), n, mount[mount.index("-") + 1]) for n, mount in enumerate(mounts)]
    return max((each for each in found if _plain(mounts[each[1]][4]) in above), default=(0, 0, ""))[2] in LOCAL


def _plain(mount: str) -> str:
    """Return the name of a mount point, in which the kernel writes spaces as octal numbers."""
    octal = mount.encode(errors="surrogateescape").decode("unicode_escape")
    return octal.encode("latin-1").decode(errors="surrogateescape")

"""File systems: the one that a path lies on, and whether several machines can share it."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hpo.errors import StorageError

MOUNTS = Path("/proc/self/mountinfo")

NETWORK_TYPES = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "smb2", "afs", "9p", "virtiofs", "ncpfs", "coda"),
        *("lustre", "gpfs", "beegfs", "fhgfs", "ceph", "glusterfs", "panfs", "wekafs", "orangefs"),
        *("pvfs2", "dvs", "gfs2", "ocfs2", "vboxsf", "vmhgfs", "prl_fs", "cvfs", "quobyte"),
        *("fuse.sshfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs"),
        *("fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.mfs", "fuse.lizardfs", "fuse.quobyte"),
        *("fuse.vmhgfs-fuse", "fuse.grpcfuse", "fuse.curlftpfs", "fuse.davfs", "fuse.beegfs"),
    }
)
# They are in user space, or wait for a mount, and what is behind them is another matter.
LOCAL_FUSE_TYPES = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.squashfuse", "fuse.lxcfs"})
_UNTOLD_TYPES = frozenset({"autofs", "fuse"})


@dataclass(frozen=True)
class FileSystem:
    """Where a path lies.

    Attributes
    ----------
    path
        The path, resolved.
    mount_point
        The folder at which its file system is mounted; the root folder if unknown.
    type
        As the kernel calls it, such as `ext4` or `nfs4`; `unknown` where that cannot be found out.
    network
        Whether other machines can have it mounted too; None if that is unknown.
    name
        What is mounted: a device, or a server and its folder.
    """

    path: Path
    mount_point: Path
    type: str
    network: bool | None
    name: str

    @property
    def reach(self) -> str:
        """Return `network`, `local` or `network or local unknown`."""
        if self.network is None:
            return "network or local unknown"
        return "network" if self.network else "local"

    def __str__(self) -> str:
        return f"{self.type} ({self.reach})"


def locate(path: Path, mounts: str | None = None) -> FileSystem:
    """Return the file system that a path lies on, or would lie on once it is made.

    Parameters
    ----------
    path
        A file or folder; symbolic links are followed.
    mounts
        Text in the form of `/proc/self/mountinfo` (default: that file, or `unknown` where a
        system has none).
    """
    path = path.absolute().resolve()
    if mounts is None:
        # A folder that is mounted on demand is in the list once something has looked into it.
        nearest_existing(path)
        try:
            mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            mounts = ""
    found = FileSystem(path, Path(path.anchor), "unknown", None, "unknown")
    for line in mounts.splitlines():
        mount = _parse(line)
        if mount is None or not path.is_relative_to(mount[0]):
            continue
        # The longest mount point holds the path; of equal ones the last, which hides the others.
        if len(mount[0].parts) >= len(found.mount_point.parts):
            point, kind, name = mount
            found = FileSystem(path, Path(point), kind, is_network(kind), name)
    return found


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    path = path.absolute()
    for candidate in (path, *path.parents):
        try:
            candidate.stat()
        except OSError:
            continue
        return candidate
    return Path(path.anchor)


def is_network(kind: str) -> bool | None:
    """Return whether a type of file system is a network's, or None if that is unknown."""
    if kind in NETWORK_TYPES:
        return True
    if kind in LOCAL_FUSE_TYPES:
        return False
    return None if kind in _UNTOLD_TYPES or kind.startswith("fuse.") else False


def _parse(line: str) -> tuple[PurePosixPath, str, str] | None:
    """Return mount point, type and source of a line, whose optional fields end with a dash."""
    before, dash, after = line.partition(" - ")
    left, right = before.split(), after.split(" ")
    if not dash or len(left) < 6 or len(right) < 2:
        return None
    return PurePosixPath(_unescape(left[4])), right[0], _unescape(right[1])


def _unescape(text: str) -> str:
    """Undo the kernel's octal escapes of blanks, tabs, newlines and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def check_sqlite_shared(
    url_database: Path, hosts: Collection[str], mounts: str | None = None
) -> None:
    """Refuse a SQLite file that the machines which are to use it cannot share.

    Parameters
    ----------
    url_database
        The file.
    hosts
        Names of all machines that are to open it, this one included if it is among them; a name
        and the same name with its domain are one machine.
    mounts
        See `locate`.

    Raises
    ------
    StorageError
        If several machines are to use one file, or another machine a file that only this one has.
    """
    machines = {_machine(host): host for host in sorted(hosts)}
    others = set(machines) - {_machine(socket.gethostname()), "localhost"}
    if not others:
        return
    where = locate(url_database, mounts)
    several = len(others) > 1 or len(machines) > 1
    if where.network is False:
        named = ", ".join(machines[machine] for machine in sorted(others))
        why = f"on a local file system of this machine ({where.type}), which {named} cannot see"
    elif several:
        why = (
            f"on a file system of type {where.type} ({where.reach}), and is to be used from "
            f"several machines ({', '.join(machines.values())}): SQLite's write-ahead mode needs "
            "shared memory, which only processes of one machine have, and results could be lost"
        )
    else:
        return
    raise StorageError(
        f"{where.path}: this SQLite file is {why}. Use a database that machines can share: "
        f"'hpo db start DIR' starts one, 'hpo copy sqlite:///{where.path} DIR' takes along what "
        "the file holds, and then give --storage DIR"
    )


def find_local(
    paths: Sequence[Path], hosts: Collection[str], mounts: str | None = None
) -> list[FileSystem]:
    """Return where those paths lie that only this machine has, if any of `hosts` is another one.

    Parameters
    ----------
    paths
        Files and folders.
    hosts, mounts
        As for `check_sqlite_shared`.
    """
    here = {_machine(socket.gethostname()), "localhost"}
    if {_machine(host) for host in hosts} <= here:
        return []
    places = [locate(path, mounts) for path in paths]
    return [place for place in places if place.network is False]


def _machine(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.split(".")[0].lower()

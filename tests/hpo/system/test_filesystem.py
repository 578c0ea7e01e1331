"""Which file system a path lies on, from mount tables as they are recorded at real sites."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from hpo.errors import StorageError
from hpo.system import filesystem
from hpo.system.filesystem import check_sqlite_shared, is_network, locate, nearest_existing

HERE = socket.gethostname()
NAS = "nas1.cluster:/export/home/chen"
MGS = "10.148.0.21@o2ib:10.148.0.22@o2ib:/scr1"

ROOT = "22 1 8:2 / / rw,relatime shared:1 - xfs /dev/sda2 rw,attr2,inode64,noquota\n"

# Home folders by NFS, one of them mounted on demand; a share whose name has a blank.
NFS_SITE = ROOT + (
    "25 22 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw\n"
    "38 22 0:35 / /home rw,relatime shared:19 - autofs auto.home "
    "rw,fd=7,pgrp=1,timeout=300,minproto=5,maxproto=5,indirect\n"
    "412 38 0:61 / /home/chen rw,relatime shared:230 - nfs4 nas1.cluster:/export/home/chen "
    "rw,vers=4.2,rsize=1048576,wsize=1048576,hard,proto=tcp,sec=sys,local_lock=none\n"
    "430 22 0:70 / /mnt/group\\040data rw,relatime shared:240 - cifs //files/group\\040data "
    "rw,vers=3.1.1,cache=strict\n"
    "441 22 8:5 /node/tmp /tmp rw,nosuid,relatime shared:250 master:3 - ext4 /dev/sda5 rw\n"
)
LUSTRE_SITE = ROOT + (
    "51 22 0:45 / /scratch rw,relatime shared:27 - lustre 10.148.0.21@o2ib:10.148.0.22@o2ib:/scr1 "
    "rw,checksum,flock,user_xattr,lruresize,lazystatfs\n"
    "52 22 0:45 /projects /projects rw,relatime shared:28 - lustre "
    "10.148.0.21@o2ib:10.148.0.22@o2ib:/scr1 rw,flock\n"
    "53 22 0:47 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=131072000k\n"
)
GPFS_SITE = ROOT + (
    "88 22 0:52 / /gpfs/work rw,relatime shared:41 - gpfs work "
    "rw,mtime,nfssync,dev=work,autostart,ldnlm\n"
    "89 22 0:52 /u /u rw,relatime shared:42 - gpfs work rw,dev=work\n"
)
DESKTOP = ROOT + (
    "90 22 0:60 / /media/cluster rw,nosuid,nodev,relatime - fuse.sshfs me@login:/home/me "
    "rw,user_id=1000\n"
    "91 22 0:61 / /run/user/1000/doc rw,nosuid,nodev - fuse.portal portal rw,user_id=1000\n"
    "92 22 8:17 / /media/stick rw,nosuid - fuseblk /dev/sdb1 rw,user_id=0\n"
    "93 22 0:62 / /data rw - ext4 /dev/sdc1 rw\n"
    "94 93 0:63 / /data rw - nfs nas:/data rw,vers=3\n"
)


@pytest.mark.parametrize(
    ("mounts", "path", "mount_point", "kind", "network", "name"),
    [
        (NFS_SITE, "/home/chen/hpo.db", "/home/chen", "nfs4", True, NAS),
        (NFS_SITE, "/home/cheng/hpo.db", "/home", "autofs", None, "auto.home"),
        (NFS_SITE, "/homes/chen", "/", "xfs", False, "/dev/sda2"),
        (NFS_SITE, "/mnt/group data/x", "/mnt/group data", "cifs", True, "//files/group data"),
        (NFS_SITE, "/tmp/no/such/folder", "/tmp", "ext4", False, "/dev/sda5"),
        (LUSTRE_SITE, "/scratch/me", "/scratch", "lustre", True, MGS),
        (LUSTRE_SITE, "/projects/a/b", "/projects", "lustre", True, MGS),
        (LUSTRE_SITE, "/opt", "/", "xfs", False, "/dev/sda2"),
        (GPFS_SITE, "/gpfs/work/hpo.db", "/gpfs/work", "gpfs", True, "work"),
        (GPFS_SITE, "/u/me", "/u", "gpfs", True, "work"),
        (GPFS_SITE, "/gpfs/other", "/", "xfs", False, "/dev/sda2"),
        (DESKTOP, "/media/cluster/x", "/media/cluster", "fuse.sshfs", True, "me@login:/home/me"),
        (DESKTOP, "/run/user/1000/doc/x", "/run/user/1000/doc", "fuse.portal", None, "portal"),
        (DESKTOP, "/media/stick", "/media/stick", "fuseblk", False, "/dev/sdb1"),
        (DESKTOP, "/data/x", "/data", "nfs", True, "nas:/data"),
        ("", "/anything", "/", "unknown", None, "unknown"),
        ("not a mount table\n1 2 3 - x\n", "/anything", "/", "unknown", None, "unknown"),
    ],
)
def test_a_path_lies_on_the_file_system_of_its_longest_mount_point(
    mounts, path, mount_point, kind, network, name
):
    found = locate(Path(path), mounts)
    assert (str(found.mount_point), found.type, found.network, found.name) == (
        mount_point,
        kind,
        network,
        name,
    )
    assert found.path == Path(path).resolve()


def test_a_symbolic_link_is_followed(tmp_path):
    real = tmp_path / "scratch"
    real.mkdir()
    (tmp_path / "home").symlink_to(real)
    mounts = f"{ROOT}51 22 0:45 / {real} rw - lustre server:/s rw\n"
    assert locate(tmp_path / "home" / "new" / "hpo.db", mounts).type == "lustre"


def test_the_kernel_agrees_about_this_machine():
    # stat(1) names some types by their family, such as ext2/ext3 for ext4.
    for path, family in ((Path("/proc/self"), "proc"), (Path("/dev/shm"), "tmpfs")):
        said = subprocess.run(
            ["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True
        )
        assert locate(path).type == said.stdout.strip() == family
        assert locate(path).network is False


def test_a_system_without_mount_table_is_said_to_be_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "none")
    found = locate(tmp_path)
    assert (found.type, found.network) == ("unknown", None)
    assert str(found) == "unknown (network or local unknown)"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("beegfs", True),
        ("9p", True),
        ("fuse.juicefs", True),
        ("btrfs", False),
        ("overlay", False),
        ("fuse", None),
        ("fuse.something", None),
        ("autofs", None),
    ],
)
def test_types_are_known_or_said_to_be_unknown(kind, expected):
    assert is_network(kind) is expected


def test_the_nearest_existing_folder_is_found(tmp_path):
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    file = tmp_path / "file"
    file.touch()
    assert nearest_existing(file / "below") == file
    assert nearest_existing(Path(os.devnull)) == Path(os.devnull)


@pytest.mark.parametrize(
    ("mounts", "path", "hosts"),
    [
        (NFS_SITE, "/home/chen/hpo.db", set()),
        (NFS_SITE, "/home/chen/hpo.db", {HERE}),
        (NFS_SITE, "/home/chen/hpo.db", {HERE, f"{HERE}.cluster.example", "localhost"}),
        (NFS_SITE, "/tmp/hpo.db", {HERE}),
        # One machine alone, wherever it is, may use a file that it can see.
        (LUSTRE_SITE, "/scratch/hpo.db", {"elsewhere"}),
        ("", "/tmp/hpo.db", {"elsewhere"}),
    ],
)
def test_one_machine_may_use_a_sqlite_file(mounts, path, hosts):
    check_sqlite_shared(Path(path), hosts, mounts)


@pytest.mark.parametrize(
    ("mounts", "path", "kind"),
    [
        (NFS_SITE, "/home/chen/hpo.db", "nfs4 (network)"),
        (LUSTRE_SITE, "/scratch/hpo.db", "lustre (network)"),
        (DESKTOP, "/run/user/1000/doc/hpo.db", "fuse.portal (network or local unknown)"),
    ],
)
@pytest.mark.parametrize("hosts", [{HERE, "node-7"}, {"node-7", "node-8"}])
def test_several_machines_must_not_share_a_sqlite_file(mounts, path, kind, hosts):
    with pytest.raises(StorageError) as caught:
        check_sqlite_shared(Path(path), hosts, mounts)
    message = str(caught.value)
    for part in (path, kind, *hosts, "shared memory", "hpo db start DIR", "--storage DIR"):
        assert part in message
    assert f"hpo copy sqlite:///{path} DIR" in message


def test_addresses_are_machines_of_their_own():
    with pytest.raises(StorageError, match=r"10\.0\.0\.1, 10\.0\.0\.2"):
        check_sqlite_shared(Path("/scratch/hpo.db"), {"10.0.0.1", "10.0.0.2"}, LUSTRE_SITE)


def test_another_machine_cannot_see_a_local_file():
    with pytest.raises(StorageError, match=r"local file system of this machine \(ext4\), which n1"):
        check_sqlite_shared(Path("/tmp/hpo.db"), {"n1"}, NFS_SITE)

"""CIFs out of folders and archives of any kind: all of them, or a sentence that says why not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from features.datasets import cif_files
from features.datasets.cif_files import read_cifs
from features.datasets.materials_project import load
from features.errors import DatasetError
from features.intake.foreign_files import read_bounded

PACKED: dict[str, Any] = {
    "tar": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def archive(*members: tuple[str, bytes | str], kind: bytes = tarfile.SYMTYPE) -> bytes:
    """A tar archive of files, and of links where a text says where to."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                made.addfile(info)
            else:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("how", PACKED)
def test_every_compression_gives_the_same_cifs(how, tmp_path):
    path = tmp_path / "cifs"
    path.write_bytes(
        PACKED[how](archive(("a/x.cif", b"x"), ("b/y.CIF", b"y"), ("._z.cif", b""), ("n.txt", b"")))
    )
    assert read_cifs(path).cifs == {"x": b"x", "y": b"y"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize(
    "links",
    [
        [("x.cif", "nowhere.cif")],
        [("x.cif", "x.cif")],
        [("x.cif", "y.cif"), ("y.cif", "x.cif")],
        [("x.cif", "/etc/passwd")],
        [("x.cif", "../../../../etc/passwd")],
        [(f"{at}.cif", f"{at + 1}.cif") for at in range(3000)],
    ],
    ids=["dangling", "itself", "loop", "outside", "above", "chain"],
)
def test_a_link_to_no_file_of_the_archive_is_refused(kind, links, tmp_path):
    path = tmp_path / "cifs.tar"
    path.write_bytes(archive(*links, kind=kind))
    with pytest.raises(
        DatasetError, match=r"cifs\.tar cannot be read .*is a link to no file in it"
    ):
        read_cifs(path)


def test_a_link_to_a_file_of_the_archive_is_that_file(tmp_path):
    path = tmp_path / "cifs.tar"
    path.write_bytes(archive(("a.cif", b"data"), ("b.cif", "a.cif")))
    assert read_cifs(path).cifs == {"a": b"data", "b": b"data"}


@pytest.fixture
def small_bounds(monkeypatch):
    monkeypatch.setattr(cif_files, "MAX_CIF_BYTES", 100_000)
    monkeypatch.setattr(cif_files, "MAX_UNPACKED_BYTES", 1_000_000)


def sparse(size: int) -> bytes:
    """An archive with one CIF of `size` zeros that takes a block."""
    info = tarfile.TarInfo("x.cif")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"%011o " % 0
    header[398:410] = b"%011o " % 0
    header[483:495] = b"%011o " % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"\0" * 1024


BOMBS = {
    "a large cif": archive(("x.cif", b" " * 200_000)),
    "many cifs": archive(*((f"{at}.cif", bytes(90_000)) for at in range(12))),
    "something else": archive(("x.bin", bytes(2_000_000)), ("x.cif", b"x")),
    "many links to one": archive(
        ("x.cif", b" " * 90_000), *((f"{at}.cif", "x.cif") for at in range(20))
    ),
    "a sparse file": sparse(1 << 33),
}


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize("how", PACKED)
def test_what_unpacks_to_too_much_is_refused_before_it_fills_the_memory(what, how, tmp_path):
    path = tmp_path / "cifs"
    path.write_bytes(PACKED[how](BOMBS[what]))
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=r"cifs cannot be read .*(unpacks to|has) more than"):
            read_cifs(path)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["gz", "bz2", "xz"])
def test_a_damaged_archive_is_refused_wherever_it_is_damaged(name, tmp_path):
    whole = PACKED[name](archive(("x.cif", b"data" * 1000), ("y.cif", os.urandom(2000))))
    path = tmp_path / "cifs"
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            # Any other error fails the test.
            with contextlib.suppress(DatasetError):
                read_cifs(path)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/full", "/dev/null"])
def test_a_device_is_no_archive(path):
    with pytest.raises(DatasetError, match="is a device or socket"):
        read_cifs(Path(path))


def test_a_folder_gives_its_files_and_neither_loops_nor_pipes(tmp_path, monkeypatch):
    (tmp_path / "a.cif").write_bytes(b"a")
    (tmp_path / "loop.cif").symlink_to("loop.cif")
    (tmp_path / "gone.cif").symlink_to("nowhere")
    (tmp_path / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.cif")
    assert read_cifs(tmp_path).cifs == {"a": b"a"}
    with (tmp_path / "huge.cif").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DatasetError, match=r"huge\.cif"):
        read_cifs(tmp_path)


def test_a_pipe_that_nobody_writes_to_is_empty(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert read_bounded(tmp_path / "pipe") == b""


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"{}", b"[]", b'{"columns": [], "data": []}', b"1" * 5000, b"\xff"]
)
def test_a_stored_answer_that_is_none_is_refused(text):
    with pytest.raises(DatasetError, match="damaged or none of ours"):
        load(gzip.compress(text))


def test_a_stored_answer_is_unpacked_within_bounds(monkeypatch):
    from features.datasets import materials_project

    monkeypatch.setattr(materials_project, "MAX_BYTES", 1000)
    with pytest.raises(DatasetError, match="unpacks to more than"):
        load(gzip.compress(b" " * 10_000))

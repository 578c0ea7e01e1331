"""Files appear whole or not at all; devices, pipes and standard output are written to."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpo.system.atomic_files import is_stream, replace_file, replacing, write_private
from tests.support.folders import listing
from tests.support.studies import ROOT


def test_a_file_is_replaced_whole_and_kept_if_writing_fails(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert (path.read_text(), listing(tmp_path)) == ("old", ["x"])
    replace_file(path, "new")
    assert (path.read_text(), listing(tmp_path)) == ("new", ["x"])


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("x" * 255)
    replace_file(path, "whole")
    assert path.read_text() == "whole"
    with pytest.raises(OSError, match="File name too long"):
        replace_file(tmp_path / ("x" * 256), "")


@pytest.mark.parametrize("writer", [replace_file, write_private])
def test_what_is_written_meanwhile_is_new_and_no_link_is_followed(tmp_path, monkeypatch, writer):
    """A name that somebody foresaw, with a link under it, is refused and not written through."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    opened = []
    real = os.open

    def spy(path, flags, mode=0o777, **options):
        opened.append((Path(os.fsdecode(path)), flags))
        return real(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", spy)
    for _ in range(2):
        writer(tmp_path / "x", "content")
    made = [(path, flags) for path, flags in opened if flags & os.O_CREAT]
    assert len({path for path, _ in made}) == 2
    assert all(flags & os.O_EXCL and flags & os.O_NOFOLLOW for _, flags in made)
    monkeypatch.setattr("secrets.token_hex", lambda _: "foreseen")
    (tmp_path / ".hpo-foreseen.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        writer(tmp_path / "x", "attack")
    assert victim.read_text() == "precious"
    assert (tmp_path / "x").read_text() == "content"


def test_a_link_to_a_file_is_replaced_and_what_it_leads_to_is_not(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("precious")
    link.symlink_to(victim)
    replace_file(link, "new")
    assert (victim.read_text(), link.read_text()) == ("precious", "new")


def test_permissions_are_those_of_the_umask_or_private(tmp_path):
    replace_file(tmp_path / "open", "")
    write_private(tmp_path / "private", "")
    umask = os.umask(0o22)
    os.umask(umask)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "private")]
    assert modes == [0o666 & ~umask, 0o600]


@pytest.mark.parametrize("path", [Path("/"), Path(), Path("..")])
def test_a_folder_is_refused(path):
    with pytest.raises(IsADirectoryError):
        replace_file(path, "x")


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device or address"):
        replace_file(pipe, "nobody reads")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    content = b"x" * 1_000_000
    while True:
        try:
            replace_file(pipe, content)
        except OSError:
            continue
        break
    reader.join(timeout=30)
    assert read == [content]
    assert pipe.is_fifo()
    assert listing(tmp_path) == ["pipe"]


def test_a_device_and_a_socket_stay_what_they_are(tmp_path):
    replace_file(Path(os.devnull), "x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    with pytest.raises(OSError, match="No space left on device"):
        replace_file(Path("/dev/full"), "x")
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(OSError, match="No such device or address"):
            replace_file(path, "x")
    assert path.is_socket()


WRITE = "import sys; from hpo.system.atomic_files import *; print('before'); sys.stdout.flush(); "
WRITE += "replace_file(Path(sys.argv[1]), 'content\\n'); print('after')"


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to_file", [False, True])
def test_standard_output_is_a_stream_wherever_it_leads(tmp_path, name, to_file):
    redirected = tmp_path / "redirected"
    with redirected.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-c", WRITE, name],
            stdout=stream if to_file else subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
    told = redirected.read_bytes() if to_file else done.stdout
    assert told == b"before\ncontent\nafter\n"
    assert listing(tmp_path) == ["redirected"]


def test_what_is_a_stream(tmp_path):
    regular = tmp_path / "x"
    regular.touch()
    for path in (regular, tmp_path, tmp_path / "absent", Path("/dev/shm/absent")):
        assert not is_stream(path)

"""Processes that share the structures of a table: on this machine, and as jobs of a real SLURM."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter

from features.atomic_files import claim_file
from features.families.registry import FAMILIES
from features.table import CsvSpec, build, find_structures, read
from features.tables.cache import claim_description, family_version, load_description
from hpo.system.filesystem import find_local
from slurm.queue import list_jobs
from tests.support.studies import ROOT, wait_until
from tests.support.tables.slow_family import CIFS, begun, share, structures

CLUSTERS = """
[test]
memory_gb = 0.5
time_limit = "1:00:00"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, from which the tests' own modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def start(call):
    code = f"from pathlib import Path; from tests.support.tables.slow_family import *; {call}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def holding(tables, family, digests):
    """Have another process hold claims, and kill it in the end, whatever the test finds."""
    call = f"hold(Path({tables!r}), {family!r}, {digests})"
    with start(call) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            yield
        finally:
            holder.kill()


def made_by(process):
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return int(out.splitlines()[-1])


@pytest.mark.slow
def test_processes_at_once_describe_no_structure_twice(here):
    running = [start("share(1)"), start("share(1)"), start("share(2)")]
    assert sum(made_by(process) for process in running) == len(CIFS)
    assert set(begun().values()) == {1}
    assert structures().count_missing() == 0
    assert made_by(start("share(1)")) == 0


@pytest.mark.slow
def test_what_a_killed_process_had_not_done_is_done_by_the_others(here):
    with start("share(1)") as killed:
        wait_until(lambda: len(begun()) >= 3)
        survivor = start("share(1)")
        wait_until(lambda: len(begun()) >= 12)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert structures().count_missing() > 1
    made_by(survivor)
    # Nothing but the one that was at work on when the process was killed, if at all.
    left = structures().count_missing()
    assert left <= 1
    assert made_by(start("share(1)")) == left
    assert sum(begun().values()) <= len(CIFS) + 1


def test_a_claim_is_one_process_and_ends_with_it(here):
    family = FAMILIES["ewald"]
    where = (here / "tables", family, family_version(family))
    one, two = list(CIFS)[:2]
    with holding("tables", "ewald", [one]):
        with claim_description(*where, one) as claimed:
            assert claimed is None
        with claim_description(*where, two) as claimed:
            assert claimed is not None
    with claim_description(*where, one) as claimed:
        assert claimed is not None
        assert claimed.load() is None
        claimed.save(([1.0] * family.n_columns, ["why"]))
    assert load_description(*where, one) == ([1.0] * family.n_columns, ["why"])


@pytest.mark.slow
def test_what_somebody_left_half_is_made_again(here):
    share(2)
    paths = sorted(Path("tables").glob(".structures/*/*.json"))
    before = [path.read_bytes() for path in paths]
    for path, size in zip(paths, (0, 1, 20, -1), strict=False):
        path.write_bytes(path.read_bytes()[:size])
    assert structures().count_missing() == 4
    assert structures().describe(1, lambda line: None) == 4
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.slow
def test_a_number_that_was_changed_by_hand_is_made_again(here):
    share(2)
    paths = sorted(Path("tables").glob(".structures/*/*.json"))
    before = [path.read_bytes() for path in paths]
    for path, data in zip(paths[:3], before, strict=False):
        at = max(data.rfind(str(digit).encode()) for digit in range(10))
        path.write_bytes(data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :])
    # The whole description of another structure is none of this one either.
    paths[3].write_bytes(before[4])
    assert structures().count_missing() == 4
    assert structures().describe(1, lambda line: None) == 4
    assert [path.read_bytes() for path in paths] == before


def test_where_a_file_system_has_no_locks_everybody_gets_every_claim(here, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claim_file(here / "a") as first, claim_file(here / "a") as second:
        assert first is not None
        assert second is not None


def write_dataset(folder, n, size=(1, 1, 1), families="li_environment"):
    """Write a study, and a CSV file with a CIF for each of its rows, rock salts of all edges."""
    (folder / "cifs").mkdir()
    lines = ["id,formula,target"]
    for number in range(n):
        lattice = Lattice.cubic(4.0 + 0.001 * number)
        sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
        crystal = Structure.from_spacegroup("Fm-3m", lattice, ["Li", "F"], sites) * size
        (folder / "cifs" / f"r{number}.cif").write_text(str(CifWriter(crystal)))
        lines.append(f"r{number},LiF,{number}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    names = ", ".join(f'"{name}"' for name in families.split(","))
    (folder / "mine.toml").write_text(
        'trials = 1\n[table]\ndataset = "csv"\npath = "data.csv"\nid = "id"\ncifs = "cifs"\n'
        f"test_fraction = 0.0\nfamilies = [{names}]\n"
        '[cv]\nscheme = "interleaved"\n[estimator]\nname = "ridge"\n'
    )
    return CsvSpec(
        dataset="csv",
        path=Path("data.csv"),
        id="id",
        cifs=Path("cifs"),
        test_fraction=0.0,
        families=tuple(families.split(",")),
    )


@pytest.mark.slow
def test_a_build_does_not_wait_for_a_process_that_is_at_work_for_ever(here):
    spec = write_dataset(here, 3)
    folders = {"data_dir": None, "base_dir": here}
    cifs = [path.read_bytes() for path in sorted(Path("cifs").iterdir())]
    digests = [hashlib.sha256(cif).hexdigest() for cif in cifs][:2]
    with holding("tables", "li_environment", digests):
        shared = find_structures(spec, tables_dir=Path("tables"), **folders)
        # The checks of all three, and the family's values of the one that nobody holds.
        assert shared.describe(1, lambda line: None) == 3 + 1
        assert shared.count_missing() == 2
        built = build(spec, tables_dir=Path("tables"), **folders)
    assert read(built.path).hash == build(spec, tables_dir=Path("alone"), **folders).hash


def written(tables="tables"):
    """When each description was written, in ns; empty ones are claimed, or were."""
    paths = Path(tables).glob(".structures/*/*.json")
    files = {str(path): path.stat() for path in paths}
    return {path: stat.st_mtime_ns for path, stat in files.items() if stat.st_size}


@pytest.mark.slow
def test_structures_are_described_by_themselves_and_the_build_takes_them(hpo, tmp_path):
    write_dataset(tmp_path, 4, families="ratios,li_environment")
    said = hpo("features", "build", "mine.toml", "--structures-only").stdout
    # Of each structure the family's values, and what the checks say.
    assert said == "8 of 8 descriptions made\n"
    before = written()
    assert len(before) == 8
    said = hpo("features", "build", "mine.toml", "--structures-only", "--json").stdout
    assert json.loads(said) == {"total": 8, "described": 0, "missing": 0}
    assert not list(Path("tables").glob("csv-*"))
    built = hpo("features", "build", "mine.toml")
    assert "li_environment: 4 of 4 CIFs from the cache" in built.stderr
    assert written() == before
    assert "is built already" in hpo("features", "build", "mine.toml", "--structures-only").stdout


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    """A PATH without programs, so that whatever asks SLURM fails."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.mark.slow
def test_with_nothing_to_share_nothing_is_submitted(hpo, tmp_path, no_slurm, monkeypatch):
    write_dataset(tmp_path, 2, families="ratios")
    submit = ("features", "build", "mine.toml", "--cluster", "default")
    assert "no family of this table describes structures one at a time" in hpo(*submit).stderr
    assert json.loads(hpo(*submit, "--json").stdout) == {
        "missing": 0,
        "active": 0,
        "submitted": [],
    }
    # A cluster for everything else is no reason to submit.
    monkeypatch.setenv("HPO_CLUSTER", "narval")
    assert "built" in hpo("features", "build", "mine.toml").stdout
    assert "is built already; no jobs are submitted" in hpo(*submit).stderr
    assert "unchanged, reused" in hpo(*submit, "--wait").stdout


@pytest.mark.slow
def test_mistakes_are_named(hpo, tmp_path, no_slurm):
    write_dataset(tmp_path, 2)
    build = ("features", "build", "mine.toml")
    said = hpo(*build, "--cluster", "default", code=2).stderr
    assert "no program squeue on PATH; use a login node" in said
    assert "no cluster 'narval'" in hpo(*build, "--cluster", "narval", code=2).stderr
    assert "need --cluster NAME" in hpo(*build, "--wait", code=2).stderr
    assert "need --cluster NAME" in hpo(*build, "--slurm", "time_limit=5", code=2).stderr
    both = hpo(*build, "--cluster", "default", "--structures-only", code=2).stderr
    assert "give one of them" in both
    nowhere = ("--dataset", "obelix", "--families", "ewald", "--data", "nowhere")
    for how in (("--cluster", "default"), ("--structures-only",)):
        said = hpo("features", "build", *nowhere, *how, code=2).stderr
        assert "neither nowhere nor its obelix/ holds the data" in said
    Path("file").touch()
    said = hpo(*build, "--structures-only", "--tables", "file", code=2).stderr
    assert "tables folder file: cannot be used" in said


def test_folders_that_only_this_machine_has_are_found():
    mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /home rw - nfs4 server:/home rw\n"
    paths = [Path("/home/chen/tables"), Path("/scratch/tables")]
    found = find_local(paths, {"n1", "n2"}, mounts)
    assert [(str(where.path), where.type) for where in found] == [("/scratch/tables", "ext4")]
    assert find_local(paths, {"localhost"}, mounts) == []


# On a real SLURM


@pytest.fixture
def site(hpo, slurm_cluster):
    """A folder with a cluster file, and a cluster that is at rest."""
    Path("clusters.toml").write_text(CLUSTERS)
    yield slurm_cluster
    slurm_cluster.wait_idle()


def jobs_of(said):
    """The jobs of the array that a submission names."""
    (array,) = re.findall(r"submitted: job (\d+)", said)
    return [job for job in list_jobs() if job.job_id.startswith(f"{array}_")]


@pytest.mark.slow
def test_jobs_share_the_structures_and_one_may_be_killed(hpo, site, tmp_path):
    write_dataset(tmp_path, 24, (2, 2, 1), "li_environment,physics_report")
    done = hpo("features", "build", "mine.toml", "--workers", "3", "--cluster", "test")
    assert done.stdout.startswith("72 of 72 descriptions missing, 0 jobs there, 3 submitted: job ")
    assert len(jobs_of(done.stdout)) == 3
    wait_until(lambda: all(job.state == "RUNNING" for job in jobs_of(done.stdout)))
    job = jobs_of(done.stdout)[0]
    wait_until(lambda: len(written()) > 24)
    for pid in site.find_tasks(job.raw_id):
        os.kill(pid, signal.SIGKILL)
    assert len(written()) < 72
    wait_until(lambda: not any(job.active for job in jobs_of(done.stdout)), 120)
    described = written()
    assert len(described) >= 71
    (folder,) = re.findall(r"what they print: (\S+)", done.stderr)
    logs = [path.read_text() for path in Path(folder).glob("*.out")]
    assert sum("CIFs described here" in log for log in logs) >= 2

    (line,) = [line for line in done.stderr.splitlines() if line.startswith("when they are over: ")]
    words = shlex.split(line.removeprefix("when they are over: "))
    assert words[0] == "hpo"
    built = json.loads(hpo(*words[1:], "--json").stdout)
    assert written().items() >= described.items()
    assert len(written()) == 72
    alone = hpo("features", "build", "mine.toml", "--tables", "alone", "--json").stdout
    assert built["hash"] == json.loads(alone)["hash"]


@pytest.mark.slow
def test_jobs_that_are_there_are_not_submitted_again(hpo, site, tmp_path):
    write_dataset(tmp_path, 4)
    submit = ("features", "build", "mine.toml", "--cluster", "test", "--slurm", "extra.hold=true")
    assert ", 0 jobs there, 2 submitted: job " in hpo(*submit, "--workers", "2").stdout
    assert hpo(*submit, "--workers", "2").stdout == "8 of 8 descriptions missing, 2 jobs there\n"
    told = json.loads(hpo(*submit, "--workers", "9", "--json").stdout)
    assert (told["missing"], told["active"], len(told["submitted"])) == (8, 2, 6)


@pytest.mark.slow
def test_a_build_that_waits_ends_with_the_table(hpo, site, tmp_path):
    write_dataset(tmp_path, 4)
    done = hpo("features", "build", "mine.toml", "--cluster", "test", "--workers", "2", "--wait")
    assert "jobs are over: 8 of 8 descriptions were made, 0 are left" in done.stderr
    assert "li_environment: 4 of 4 CIFs from the cache" in done.stderr
    assert "4 rows, 8 features, built" in done.stdout

"""clusters.toml: where it is looked for, what stands above it, what is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm.cluster import ClusterSpec, find_cluster, parse_time, render_time
from slurm.errors import ClusterError

VALID = """
[narval]
partition = ["short", "long"]
time_limit = "1-12:00:00"
memory_gb = 8
setup = ["module load python/3.11"]
extra = { mail-type = "FAIL" }

[local]
partition = "work"
"""


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch) -> Path:
    """A valid cluster file, found because HPO_CLUSTERS names it."""
    path = tmp_path / "mine.toml"
    path.write_text(VALID)
    monkeypatch.setenv("HPO_CLUSTERS", str(path))
    return path


def test_a_cluster_file_is_read(clusters):
    narval = find_cluster("narval")
    assert narval.partition == "short,long"
    assert narval.time_limit_s == 36 * 3600
    assert (narval.memory_gb, narval.cpus_per_worker, narval.requeue) == (8.0, 1, True)
    assert (narval.leave_before_s, narval.stagger_s) == (120, 120)
    assert narval.extra == {"mail-type": "FAIL"}
    assert find_cluster("local") == find_cluster("local", clusters)


def test_the_file_is_looked_for_in_four_places(clusters, tmp_path, monkeypatch):
    here, home = tmp_path / "here", tmp_path / "home" / ".config" / "hpo"
    for folder in (here, home):
        folder.mkdir(parents=True)
        (folder / "clusters.toml").write_text(f'[{folder.name}]\npartition = "p"\n')
    explicit = tmp_path / "explicit.toml"
    explicit.write_text("[explicit]\n")
    monkeypatch.chdir(here)
    assert find_cluster(path=explicit).name == "explicit"
    assert find_cluster("local").name == "local"
    monkeypatch.delenv("HPO_CLUSTERS")
    assert find_cluster().name == "here"
    (here / "clusters.toml").unlink()
    assert find_cluster().name == "hpo"
    (home / "clusters.toml").unlink()
    assert find_cluster() == ClusterSpec(name="default")


def test_overrides_stand_above_variables_above_the_file(clusters, monkeypatch):
    monkeypatch.setenv("HPO_SLURM_PARTITION", "urgent")
    monkeypatch.setenv("HPO_SLURM_MEMORY_GB", "2.5")
    monkeypatch.setenv("HPO_SLURM_ACCOUNT", "12345")
    monkeypatch.setenv("HPO_SLURM_SETUP", "module load gcc")
    monkeypatch.setenv("HPO_SLURM_QOS", "")
    spec = find_cluster(
        "narval", overrides=["memory_gb=3", "requeue=false", "extra.mail-user=a@b.c"]
    )
    assert (spec.partition, spec.memory_gb, spec.account) == ("urgent", 3.0, "12345")
    assert (spec.setup, spec.requeue, spec.qos) == (("module load gcc",), False, None)
    assert spec.extra == {"mail-type": "FAIL", "mail-user": "a@b.c"}
    assert spec.time_limit == "1-12:00:00"


def test_what_a_study_asks_for_stands_over_the_section_and_below_the_rest(clusters, monkeypatch):
    study = {"cpus_per_worker": 4, "workers_per_job": 2, "memory_per_cpu_gb": 1.5}
    spec = find_cluster("narval", resources=study)
    assert (spec.cpus_per_job, spec.partition) == (8, "short,long")
    # One kind of memory takes the place of another.
    assert (spec.memory_gb, spec.memory_per_cpu_gb) == (None, 1.5)
    monkeypatch.setenv("HPO_SLURM_CPUS_PER_WORKER", "6")
    assert find_cluster("narval", resources=study).cpus_per_job == 12
    spec = find_cluster("narval", None, ["workers_per_job=1", "memory_gb=9"], study)
    assert (spec.cpus_per_job, spec.memory_per_job_gb, spec.memory_per_cpu_gb) == (6, 9.0, None)
    monkeypatch.setenv("HPO_SLURM_MEMORY_BY_SITE", "true")
    assert find_cluster("narval", resources=study).memory_by_site
    with pytest.raises(ClusterError, match="one of memory_gb, memory_per_cpu_gb, memory_by_site"):
        find_cluster("narval", None, ["memory_gb=9", "memory_per_cpu_gb=2"])


def test_a_site_that_forbids_memory_is_not_asked_for_it_by_a_study(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[c]\nmemory_by_site = true\n")
    spec = find_cluster("c", path, resources={"memory_gb": 8, "cpus_per_worker": 2})
    assert (spec.memory_by_site, spec.memory_per_job_gb, spec.cpus_per_worker) == (True, None, 2)


def test_a_study_and_a_section_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[c]\nworkers_per_job = 4\n")
    with pytest.raises(ClusterError, match="workers_per_job must be 1 with nodes_per_trial 2"):
        find_cluster("c", path, resources={"nodes_per_trial": 2})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('partiton = "x"', r"\[bad\] partiton: unknown key; did you mean 'partition'\?"),
        ('name = "x"', r"\[bad\] name: unknown key"),
        ("partition = 3", r"partition: input should be a valid string, got 3"),
        ('time_limit = "3:00"', "time_limit: must be D-HH:MM:SS, HH:MM:SS or minutes, got '3:00'"),
        ('time_limit = "0"', "time_limit: must be longer than nothing, got '0'"),
        ("memory_gb = 0", "memory_gb: input should be greater than 0, got 0"),
        ('memory_gb = "4"', "memory_gb: input should be a valid number, got '4'"),
        ("cpus = 4", r"\[bad\] cpus: is called cpus_per_worker now, got 4"),
        ("cpus_per_worker = 0", "cpus_per_worker: .* greater than or equal to 1, got 0"),
        ("cpus_per_worker = true", "cpus_per_worker: .* valid integer, got True"),
        ("workers_per_job = 0", "workers_per_job: .* greater than or equal to 1, got 0"),
        ("gpus_per_worker = -1", "gpus_per_worker: .* greater than or equal to 0, got -1"),
        ("gpus_per_worker = 1.5", "gpus_per_worker: must be a whole number, or a .*, got 1.5"),
        ("gpus_per_worker = 1e-320", "gpus_per_worker: must be a whole number, or a fraction"),
        ("memory_gb = 1e308", "memory_gb: .* less than or equal to 1000000, got 1e+"),
        ('gpu_type = "a100"', "gpu_type 'a100' needs gpus_per_worker, got 0"),
        ('gpus_per_worker = 1\ngpu_type = "a,b"', "gpu_type: must be one word, got 'a,b'"),
        ('gres = "lustre:1,gpu:2"', "gres: GPUs are asked for by gpus_per_worker .*, got 'lus"),
        ('gres = "gres/gpu"', "gres: GPUs are asked for by gpus_per_worker"),
        ("nodes_per_trial = 2\nworkers_per_job = 3", "workers_per_job must be 1 with nodes_per_tr"),
        ("memory_per_cpu_gb = 0", "memory_per_cpu_gb: input should be greater than 0, got 0"),
        (
            "memory_gb = 4\nmemory_by_site = true",
            "one of memory_gb, memory_per_cpu_gb, memory_by_site is enough, got memory_gb and mem",
        ),
        ('python = "a\\nb"', r"python: must be one line of text, got 'a\\nb'"),
        ("extra = { gpus = 1 }", "extra: 'gpus' has a key of its own: gpus_per_worker"),
        ("extra = { nodes = 2 }", "extra: 'nodes' has a key of its own: nodes_per_trial"),
        ("max_array = 0", "max_array: .* greater than or equal to 1, got 0"),
        ("throttle = -1", "throttle: .* greater than or equal to 0, got -1"),
        ('requeue = "yes"', "requeue: .* valid boolean, got 'yes'"),
        ('qos = "a\\nb"', r"qos: must be one line of text, got 'a\\nb'"),
        ('setup = ["a\\nb"]', r"setup.0: must be one line of text"),
        ("extra = { mem = 3 }", "extra: 'mem' has a key of its own: memory_gb"),
        ("extra = { no-requeue = true }", "extra: 'no-requeue' has a key of its own: requeue"),
        ('extra = { comment = "x" }', "extra: 'comment' is set by every submission itself"),
        ("extra = { exclusive = true }", "extra: 'exclusive' has a key of its own: exclusive"),
        ("extra = { spread-job = false }", "extra: 'spread-job' must be true or a value"),
        ('extra = { "--hold" = true }', "extra: '--hold' must be a long option of sbatch"),
        (
            'time_limit = "10:00:00"\nleave_before_s = 7000\nstagger_s = 200',
            r"leave_before_s \+ stagger_s must be less than 20% of time_limit"
            r" \(7200 s of 36000 s\), got 7000 \+ 200",
        ),
        ('x = "1"\n[b', "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, line, message):
    path = tmp_path / "bad.toml"
    path.write_text(f"[bad]\n{line}\n")
    with pytest.raises(ClusterError, match=message) as caught:
        find_cluster("bad", path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("narvla", [], r"mine.toml: no cluster 'narvla'; did you mean 'narval'\? \(valid: default"),
        ("narval", ["cpus_per_workr=2"], r"unknown key; did you mean 'cpus_per_worker'"),
        ("narval", ["cpus=2"], r"\[narval\] cpus: is called cpus_per_worker now, got 2"),
        ("narval", ["nice"], "nice: must be key=value, as in partition=long"),
        ("narval", ["nice.x=1"], "nice.x=1: 'nice' is a value, not a section"),
        ("narval", ["nice=many"], r"\[narval\] nice: .*valid integer, got 'many'"),
    ],
)
def test_a_wrong_name_or_override_is_named(clusters, name, overrides, message):
    with pytest.raises(ClusterError, match=message):
        find_cluster(name, overrides=overrides)


def test_a_wrong_variable_or_file_is_named(clusters, monkeypatch, tmp_path):
    monkeypatch.setenv("HPO_SLURM_PARTITON", "x")
    with pytest.raises(ClusterError, match="did you mean 'HPO_SLURM_PARTITION'"):
        find_cluster("narval")
    monkeypatch.delenv("HPO_SLURM_PARTITON")
    monkeypatch.setenv("HPO_SLURM_CPUS", "4")
    with pytest.raises(ClusterError, match="is called HPO_SLURM_CPUS_PER_WORKER now, got '4'"):
        find_cluster("narval")
    monkeypatch.setenv("HPO_CLUSTERS", str(tmp_path / "none.toml"))
    with pytest.raises(ClusterError, match=r"none.toml: cannot be read: No such file"):
        find_cluster("narval")
    flat = tmp_path / "flat.toml"
    flat.write_text('partition = "x"\n')
    with pytest.raises(ClusterError, match=r"partition: must stand in a section, as in"):
        find_cluster(None, flat)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('[bad]\npartiton = "x"\nthrottle = -1\nmemory_gb = -1\n')
    with pytest.raises(ClusterError) as caught:
        find_cluster("bad", path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "seconds", "rendered"),
    [
        ("90", 5400, "01:30:00"),
        ("3:00:00", 10800, "03:00:00"),
        ("0:20:30", 1230, "00:20:30"),
        ("48:00:00", 172800, "2-00:00:00"),
        ("2-3", 183600, "2-03:00:00"),
        ("1-02:03", 93780, "1-02:03:00"),
        ("7-00:00:00", 604800, "7-00:00:00"),
    ],
)
def test_times_are_read_and_written_as_slurm_does(text, seconds, rendered):
    assert parse_time(text) == seconds
    assert render_time(seconds) == rendered
    assert ClusterSpec(name="x", time_limit=text).time_limit == rendered


@pytest.mark.parametrize("minutes", [1, 5, 20, 24, 25, 60, 10000])
def test_unless_it_is_said_workers_leave_within_a_fifth_of_any_limit(minutes):
    spec = ClusterSpec(name="x", time_limit=str(minutes))
    assert spec.time_limit_s is not None
    assert 0 < spec.leave_before_s + spec.stagger_s < 0.2 * spec.time_limit_s

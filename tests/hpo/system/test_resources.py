"""Cores and memory, as control groups grant them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from hpo.system import resources


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job/step\n", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, 1.5),
        ("0::/job\n", {"job/cpu.max": "max 100000"}, None),
        ("0::/not/visible/here\n", {"cpu.max": "200000 100000"}, 2.0),
        (
            "4:cpuset:/\n3:cpu,cpuacct:/job\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        (
            "3:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("", {}, None),
    ],
)
def test_the_quota_of_cores_is_read_from_both_kinds_of_groups(
    tmp_path, membership, files, expected
):
    assert resources.cpu_quota(*groups(tmp_path, membership, files)) == expected


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (
            "0::/job\n",
            {
                "job/memory.max": "1000",
                "job/memory.current": "700",
                "job/memory.stat": "anon 500\ninactive_file 200",
            },
            500,
        ),
        ("0::/job\n", {"job/memory.max": "max", "job/memory.current": "700"}, None),
        (
            "4:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": "1000",
                "memory/job/memory.usage_in_bytes": "400",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "5000",
            },
            600,
        ),
    ],
)
def test_memory_left_is_read_from_both_kinds_of_groups(tmp_path, membership, files, expected):
    assert resources.memory_left(*groups(tmp_path, membership, files)) == expected


def groups(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "membership").write_text(membership)
    return folder / "cgroup", folder / "membership"


def test_the_memory_of_this_machine_is_what_psutil_says():
    available = resources.memory_available()
    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.2)

"""What a study asks of the machines that it runs on."""

from __future__ import annotations

import pytest

from hpo.errors import SpecError
from hpo.objectives.factory import make_objective
from hpo.spec.limits import ResourcesSpec
from hpo.study.identity.fingerprint import fingerprint
from slurm.cluster import FIELDS
from tests.support.studies import make_spec


def test_resources_are_no_part_of_what_makes_the_study_that_study(begin_study):
    record = begin_study()
    asked = {"workers_per_job": 4, "gpus_per_worker": 0.5, "memory_per_cpu_gb": 2}
    spec = make_spec(resources=asked)
    table = record.read_table()
    assert fingerprint(spec, table, make_objective(spec, table)) == record.fingerprint
    again = begin_study(resources=asked)
    assert again.spec.resources.asked == asked
    assert begin_study().spec.resources.asked == {}


def test_every_resource_is_a_field_of_a_cluster():
    assert set(ResourcesSpec.model_fields) <= set(FIELDS)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"workers_per_job": 0}, "greater than or equal to 1, got 0"),
        ({"gpus_per_worker": 2.5}, "must be a whole number, or a fraction of one GPU .*, got 2.5"),
        ({"gpus_per_worker": 1e-320}, "fraction of one GPU from 0.001 on"),
        ({"memory_gb": 2, "memory_per_cpu_gb": 1}, "one of memory_gb and memory_per_cpu_gb is"),
        ({"nodes_per_trial": 2, "workers_per_job": 2}, "workers_per_job must be 1 with nodes_per"),
        ({"cpus": 2}, "unknown key"),
    ],
)
def test_what_cannot_be_is_named(asked, message):
    with pytest.raises(SpecError, match=message) as caught:
        make_spec(resources=asked)
    assert "resources" in str(caught.value)

"""Copies of a callable on a real cluster: clusters.toml, submission, the queue, what may fail."""

from __future__ import annotations


def test_the_cluster_runs_a_job(slurm_cluster, tmp_path):
    out = tmp_path / "out.txt"
    job = slurm_cluster.sbatch("--output", str(out), "--wrap", "echo node $SLURMD_NODENAME")
    slurm_cluster.wait_until(lambda: slurm_cluster.job_states()[job] == "COMPLETED", "it ran")
    assert out.read_text() in {f"node {name}\n" for name in slurm_cluster.nodes}


def test_a_job_can_be_found_and_killed_when_the_node_is_lost(slurm_cluster):
    job = slurm_cluster.sbatch("-w", "n2", "-o", "/dev/null", "--no-requeue", "--wrap", "sleep 99")
    slurm_cluster.wait_until(lambda: slurm_cluster.find_tasks(job) != [], "it runs")
    slurm_cluster.kill_slurmd("n2")
    assert len(slurm_cluster.find_steps(job)) == 1
    slurm_cluster.start_slurmd("n2")
    slurm_cluster.wait_idle()
    slurm_cluster.wait_until(lambda: slurm_cluster.find_tasks(job) == [], "it has ended")

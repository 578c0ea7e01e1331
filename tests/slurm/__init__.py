"""Tests of jobs on a real SLURM."""

"""Keeps N workers alive, here and on SLURM. May import `worker` and `slurm`."""

"""Commands that run a study on a SLURM cluster."""

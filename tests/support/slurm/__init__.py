"""A SLURM of the tests' own, and jobs for it."""

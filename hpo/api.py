"""What `import hpo` offers to scripts and notebooks."""

from __future__ import annotations

from hpo.worker.trial_folder import trial_dir

__all__ = ["trial_dir"]

"""A fitted estimator as a file of skops, which scikit-learn's users can load without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo.errors import HpoError, ModelError
from hpo.system.atomic_files import replace_file


def write_skops(estimator: Any, path: Path) -> list[str]:
    """Write an estimator, and return the types in it that skops does not trust by itself.

    These are to be given to `skops.io.load(path, trusted=[...])`.

    Raises
    ------
    ModelError
        skops is not installed, or cannot store the estimator.
    HpoError
        The file cannot be written.
    """
    try:
        import skops.io
    except ImportError as exc:
        raise ModelError(
            "--skops needs the package skops; install it: pip install 'hpo[skops]'"
        ) from exc
    try:
        data = skops.io.dumps(estimator)
        untrusted: list[str] = skops.io.get_untrusted_types(data=data)
    except Exception as exc:  # what an estimator of a user's own is made of has no end
        raise ModelError(
            f"--skops: {type(estimator).__name__} cannot be stored by skops: {exc}; model.joblib "
            "beside the model's card has it"
        ) from exc
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as exc:
        raise HpoError(f"--skops {path}: cannot be written: {exc.strerror}") from exc
    return untrusted

"""Whether code that a stored study names may be imported here: the one place that decides.

Whoever can write a shared database can name a module in it. What a study names as
`module:attribute` is imported only if

- this user began the study, or went on with it, as it is now; else only with `--trust`;
- its files are those that the study was begun with, by a hash that is made without importing them.

Who began a study is what the database says: that keeps colleagues from surprises, and is no
protection from somebody who changes the rows of a study on purpose (SECURITY.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.errors import SpecError, TrustError
from hpo.plugins import find_module
from hpo.records import TRUST
from hpo.spec.sections import StudySpec
from hpo.study.identity.code_meaning import sha256
from hpo.study.identity.fingerprint import (
    OWN_CODE,
    Fingerprint,
    compare,
    own_modules,
    with_own_code,
)
from hpo.study.identity.provenance import user_name


def identify(fingerprint: Fingerprint) -> str:
    """Return what tells apart what a study would import and call, for who vouches for it."""
    # Samplers, callbacks and such are the study's own code, but no part of what scores depend on.
    own = [fingerprint[OWN_CODE]] if OWN_CODE in fingerprint else []
    return sha256(fingerprint["objective"], fingerprint["code"], *own)[:16]


def require_trusted(
    name: str,
    spec: StudySpec,
    study_file: Path,
    fingerprint: Fingerprint,
    began: Iterable[Mapping[str, Any]],
    accepted: Sequence[str] = (),
) -> None:
    """Refuse to import what a stored study names; nothing is imported to find that out.

    Parameters
    ----------
    name
        The study's, for the error.
    study_file
        Modules are looked for beside it as well.
    fingerprint
        What the study was begun with.
    began
        Records of who began the study and went on with it: `user`, and `code`, by `identify`.
    accepted
        Parts of the fingerprint that may differ.

    Raises
    ------
    TrustError
        If another user began it, naming the user, the module, its file and `--trust`.
    ConflictError
        If its files are not those that it was begun with.
    SpecError
        If there is no such module.
    """
    modules = own_modules(spec)
    if not modules:
        return
    folders = (study_file.parent, Path.cwd())
    files = {}
    for what, module in modules.items():
        found = find_module(module, folders)
        if found is None:
            raise SpecError(f"{what}: cannot import '{module}': there is no such module")
        files[what] = found.origin or module
    vouching = [one.get("user") for one in began if one.get("code") == identify(fingerprint)]
    if user_name() not in vouching and not os.environ.get(TRUST):
        what = next(iter(modules))
        users = sorted({str(one["user"]) for one in began if "user" in one})
        by = f"by {', '.join(users)}" if users else "by a version of hpo that did not record who"
        if user_name() in users:
            by += ", with other code than is recorded now"
        raise TrustError(
            f"study '{name}' was begun {by}, and {what} names code that would run as "
            f"{user_name()}: module '{modules[what]}' in {files[what]}. It was not imported. If "
            f"you trust this file, and all who can write the storage: --trust (or {TRUST}=1)"
        )
    if OWN_CODE in fingerprint and "code" not in accepted:
        compare(name, *with_own_code(fingerprint, spec, folders), accepted)

"""Columns made from the target: a study that uses one must say so."""

from __future__ import annotations

from collections.abc import Sequence

from features.table import Column
from hpo.errors import SpecError
from hpo.spec.sections import StudySpec


def refuse_leaks(spec: StudySpec, columns: Sequence[Column]) -> None:
    """Refuse columns made from the measured value that the study file does not name.

    Parameters
    ----------
    spec
        The study.
    columns
        Those of its table, or those that its families declare.

    Raises
    ------
    SpecError
        Naming the columns, and what to write where they are meant.
    """
    derived = [column for column in columns if column.derived_from_target]
    refused = [column for column in derived if column.name not in spec.allow_target_derived]
    if not refused:
        return
    named = ", ".join(f"'{column.name}' (family {column.family})" for column in refused)
    allowed = ", ".join(f'"{column.name}"' for column in derived)
    raise SpecError(
        f"made from the target: {named}; a model reads part of the answer from it, and "
        "no new material comes with it. Leave it out of [table] families or columns, or use it "
        f"knowingly, with this line above the sections: allow_target_derived = [{allowed}]"
    )

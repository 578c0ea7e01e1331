"""The section `[cv]`: how training rows are divided into folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from hpo.spec.base import Section


class _Cv(Section):
    """Folds of the training rows.

    With `outer`, that fold is held out in place of the table's held-out rows, which are left
    alone, and what remains is divided anew: one step of a nested cross-validation.
    """

    folds: int = Field(5, ge=2)
    outer: int | None = Field(None, ge=0)

    @property
    def name(self) -> str:
        """What a reader of results is told."""
        return str(getattr(self, "scheme", ""))

    @model_validator(mode="after")
    def _check_outer(self) -> Self:
        if self.outer is not None and self.outer >= self.folds:
            raise ValueError(f"outer must be below folds, {self.folds}, got {self.outer}")
        return self


class InterleavedCv(_Cv):
    """Row i of the training part is validated in fold i mod `folds`; file order, no shuffle."""

    scheme: Literal["interleaved"]


class KFoldCv(_Cv):
    """Shuffled k-fold."""

    scheme: Literal["kfold"]
    seed: int = Field(42, ge=0)


class GroupKFoldCv(_Cv):
    """No group has rows on both sides of a fold."""

    scheme: Literal["group_kfold"]


class LikeTestCv(_Cv):
    """Grouped folds that validate on small groups alone; larger groups are always trained on."""

    scheme: Literal["test_like"]
    max_group_rows: int = Field(24, ge=1)


class SplitterCv(Section):
    """A splitter of scikit-learn's by its class, or any other as `module:Class`, and its arguments.

    It is given the groups of the rows if it takes them, and the classes if it divides those. Where
    it takes a `random_state` that is not among the `params`, that is the study's seed. Rows may be
    validated more than once, or never. `outer` is as for the schemes.
    """

    splitter: str = Field(min_length=1)
    params: dict[str, Any] = Field({})
    outer: int | None = Field(None, ge=0)

    @property
    def name(self) -> str:
        """What a reader of results is told."""
        return self.splitter


def cv_kind(value: Any) -> str | None:
    """Return the tag of a `[cv]` section, by which pydantic chooses its model."""
    known = value if isinstance(value, Mapping) else dict(value)
    return "splitter" if "splitter" in known and "scheme" not in known else known.get("scheme")


AnyCv: TypeAlias = Annotated[
    Annotated[InterleavedCv, Tag("interleaved")]
    | Annotated[KFoldCv, Tag("kfold")]
    | Annotated[GroupKFoldCv, Tag("group_kfold")]
    | Annotated[LikeTestCv, Tag("test_like")]
    | Annotated[SplitterCv, Tag("splitter")],
    Discriminator(cv_kind),
]

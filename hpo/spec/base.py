"""What every section of a study file has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a study file: unknown keys are refused, nothing of it changes."""

    # An infinite parameter stays one where the study is stored.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

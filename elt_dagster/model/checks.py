"""What is checked after a load, and how strictly: the words of a sync's ``checks``."""

from typing import Any

from pydantic import Field, model_validator

from elt_dagster.model.part import Part


class Switched(Part):
    """Settings of a check that may also be written as `true` or `false`."""

    enabled: bool = True
    """Whether it is checked."""

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


class KeyCheck(Switched):
    """How the primary key is checked."""

    max_rows: int = Field(default=1_000_000, ge=0)
    """Where the load does not make keys unique by itself (replace, append), the table's keys are counted after each load up to this many rows."""


class VolumeCheck(Switched):
    """When too few rows are a reason to warn."""

    min_ratio: float = Field(default=0.5, gt=0, le=1)
    """The least share of the usual number of rows that is no reason to warn."""
    history: int = Field(default=10, ge=3, le=100)
    """How many earlier loads say what is usual; with fewer than 3 of them nothing is said."""


class Checks(Part):
    """What Dagster is told about the quality of each load. Every check may be switched off with `false`."""

    schema_drift: bool = True
    """Warn when the table's columns changed; fail when they should have and are frozen."""
    primary_key: KeyCheck = KeyCheck()
    """Fail when the primary key is NULL or not unique."""
    rejected_rows: bool = True
    """Warn when rows did not fit the table and were set aside in `<table>__rejected`."""
    volume: VolumeCheck = VolumeCheck()
    """Warn when far fewer rows came than used to, or were left in the table."""

"""What the models of all dialects have in common."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Shown(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Sent(BaseModel):
    """Base of what is sent: no unknown keys, and silent about its input in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class RunStatusWord(StrEnum):
    """Where a run is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

"""The base of everything a user writes."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class MisplacedError(ValueError):
    """What a validator says of something deeper than the part it looks at: ``path`` leads there from that part."""

    def __init__(self, path: Sequence[str | int], text: str) -> None:
        super().__init__(text)
        self.path = tuple(path)


class Part(BaseModel):
    """Base of everything a user writes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True, use_attribute_docstrings=True
    )

"""`pyarrow.compute`, imported when a function of it is first asked for: it makes them all, with their documentation, each time it is imported.

For that reason type checkers cannot see them either.
"""

from typing import Any


class _Compute:
    def __getattr__(self, name: str) -> Any:
        import pyarrow.compute

        found = getattr(pyarrow.compute, name)
        setattr(self, name, found)
        return found


pc: Any = _Compute()

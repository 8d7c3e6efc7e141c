"""`pyarrow.compute` for type checkers: its functions are made when it is imported, so they cannot see them."""

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute

"""What a forked child inherits and cannot use."""

import ctypes


def leave_to_parent(inherited: object) -> None:
    """Keep ``inherited`` for as long as this process lives, whoever lets go of it: its threads are the parent's, so it cannot be ended here."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))

"""What is on the server itself is nothing for people who cross connection bridges: they are no users of it, and learn nothing of what is on it."""

from collections.abc import Mapping
from typing import Any

from elt_dagster.control.kept_secrets import where_to
from elt_dagster.control.problems import Problem
from elt_dagster.control.validate import Kinds

VARIABLE = "ELT_DAGSTER_BRIDGE_LOCAL_PATHS"
"""1 lets whoever crosses a bridge choose files and folders of the server, and go to a vendor's storage as the server where they give no credentials."""


def chosen_places(
    kinds: Kinds, settings: Mapping[str, Any], known: Mapping[str, Any], environ: Mapping[str, str]
) -> list[Problem]:
    """A problem for each of the plain ``settings`` that leads to something on this machine.

    Not for what is ``known``: then the application, or whoever made the connection, has named it. But that is for the address they named with it: a
    profile of the server's user is as good as a password.
    """
    kind = kinds.source or kinds.warehouse
    if environ.get(VARIABLE) == "1" or kind is None:
        return []
    text = (
        "This is, or may be, the server's own: its files, or what its credentials open. It cannot be chosen here. "
        f"Bring credentials with it, or ask whoever runs the server to allow it by {VARIABLE}=1."
    )
    stays = where_to(kinds, settings) == where_to(kinds, known)
    named = kind.config_type.local_settings(settings)
    return [Problem((n,), text) for n in named if settings.get(n) != known.get(n) or (n in known and not stays)]

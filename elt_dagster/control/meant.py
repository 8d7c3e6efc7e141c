"""Which stream somebody means who writes its name as people do: ``accounts`` where the source says ``Account``.

The guides of the Connect dialect name Salesforce's objects so. A name that the source has is never taken for another one.
"""

from collections.abc import Collection, Iterable


def meant(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """``names`` and what the source calls them: itself, else the only one that differs by case, or by singular and plural. Others are left out."""
    exact = set(known)
    found: dict[str, str] = {}
    for name in names:
        close = [name] if name in exact else [k for k in known if _forms(k) & _forms(name)]
        if len(close) == 1:
            found[name] = close[0]
    return found


def _forms(name: str) -> set[str]:
    """The name without case, and what it would be in the plural."""
    plain = name.casefold()
    plurals = {f"{plain}s", f"{plain}es"}
    if plain.endswith("y"):
        plurals.add(f"{plain[:-1]}ies")
    return {plain, *plurals}

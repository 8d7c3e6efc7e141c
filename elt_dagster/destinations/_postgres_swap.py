"""Replacing a table by renaming another into its place: the fastest way for readers' eyes, and the one that drops most on the way.

Grants, owner and row-level security are carried over; indexes other than the merge key's, triggers and constraints of the old table are not.
"""

from elt_dagster.destinations._postgres_session import Session, qualified
from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.sql import quote
from elt_dagster.errors import DestinationError

_DEPENDENTS = """
SELECT DISTINCT format('%I.%I', n.nspname, v.relname) FROM pg_depend d
JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass JOIN pg_class v ON v.oid = r.ev_class
JOIN pg_namespace n ON n.oid = v.relnamespace
WHERE d.refobjid = to_regclass($1) AND d.refclassid = 'pg_class'::regclass AND v.oid <> d.refobjid ORDER BY 1
"""
_GRANTS = """
SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, $2::text,
              CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
              CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = to_regclass($1) AND a.grantee <> c.relowner
UNION ALL
SELECT format('GRANT %s (%I) ON %s TO %s', a.privilege_type, t.attname, $2::text,
              CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
FROM pg_attribute t, aclexplode(t.attacl) a
WHERE t.attrelid = to_regclass($1) AND NOT t.attisdropped
  AND EXISTS (SELECT FROM pg_attribute n WHERE n.attrelid = to_regclass($2) AND n.attname = t.attname)
"""


def dependent_views(session: Session, table: TableRef) -> list[str]:
    """The views that read ``table``, by name."""
    return [name for (name,) in session.rows(_DEPENDENTS, qualified(table))]


def begin_swap(session: Session, table: TableRef, load_id: str) -> TableRef:
    """A name for the new table. Raises DestinationError when views hold on to the old one."""
    if views := dependent_views(session, table):
        raise DestinationError(
            f"{table} cannot be swapped for a new table: {', '.join(views)} read it.",
            fix="Set replace to delete, which keeps views, or drop them.",
        )
    return TableRef(table.schema, f"_elt_swap_{load_id.replace('-', '')[:32]}")


def finish_swap(session: Session, new: TableRef, old: TableRef) -> None:
    """Put ``new`` in the place of ``old``, with its grants and owner."""
    owner = session.value(
        "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass($1)", qualified(old)
    )
    for (grant,) in session.rows(_GRANTS, qualified(old), qualified(new)):
        session.run(grant)
    session.run(f"DROP TABLE {qualified(old)}")
    session.run(f"ALTER TABLE {qualified(new)} RENAME TO {quote(old.name)}")
    if owner != session.value("SELECT current_user::text"):
        session.run(f"ALTER TABLE {qualified(old)} OWNER TO {quote(owner)}")

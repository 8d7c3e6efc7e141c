"""Where configured syncs are kept: `open_store`, then `Store.init`, then `Store.transaction` to write and the other methods to read."""

from elt_dagster.store.lease import LEASE_SECONDS, Lease
from elt_dagster.store.reading import Reader
from elt_dagster.store.records import AnySync, BrokenSync, StoredConnection, StoredSync, Workspace
from elt_dagster.store.schema import DEFAULT_WORKSPACE
from elt_dagster.store.store import Store, open_store
from elt_dagster.store.transaction import Transaction

__all__ = [
    "DEFAULT_WORKSPACE",
    "LEASE_SECONDS",
    "AnySync",
    "BrokenSync",
    "Lease",
    "Reader",
    "Store",
    "StoredConnection",
    "StoredSync",
    "Transaction",
    "Workspace",
    "open_store",
]

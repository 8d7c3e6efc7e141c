"""Where configured syncs are kept: `open_store`, then `Store.init`, then `Store.transaction` to write and the other methods to read."""

from elt_dagster.store.api_keys import ApiKey
from elt_dagster.store.bridges import Bridge, OAuthClient
from elt_dagster.store.full_refreshes import FullRefresh
from elt_dagster.store.lease import LEASE_SECONDS, Lease
from elt_dagster.store.pages import Place, SyncFilter
from elt_dagster.store.reading import Reader
from elt_dagster.store.records import AnySync, BrokenSync, StoredConnection, StoredSync, Workspace, whole
from elt_dagster.store.replies import Reply
from elt_dagster.store.schema import DEFAULT_WORKSPACE
from elt_dagster.store.store import Store, open_store
from elt_dagster.store.transaction import Transaction

__all__ = [
    "DEFAULT_WORKSPACE",
    "LEASE_SECONDS",
    "AnySync",
    "ApiKey",
    "Bridge",
    "BrokenSync",
    "FullRefresh",
    "Lease",
    "OAuthClient",
    "Place",
    "Reader",
    "Reply",
    "Store",
    "StoredConnection",
    "StoredSync",
    "SyncFilter",
    "Transaction",
    "Workspace",
    "open_store",
    "whole",
]

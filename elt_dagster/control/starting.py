"""One start of a sync at a time, over all servers and commands that share its store: a claim is held while one of them looks and launches.

Should a process be stopped in the middle for longer than its claim lasts, two runs may come of it after all; then leases have the later one leave
the streams to the other (`orchestration.overlap`).
"""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from elt_dagster.errors import ConflictError, EltError
from elt_dagster.store import Store, StoredSync
from elt_dagster.store.claims import CLAIM_SECONDS

WAIT_SECONDS = 10.0
"""How long a start waits for another one of the same sync, which usually takes one second."""
_POLL_SECONDS = 0.05
_RENEW_SECONDS = CLAIM_SECONDS / 4


@contextmanager
def starting(store: Store, sync: StoredSync, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Nobody else starts a run of ``sync`` while the body does. Raises ConflictError when another start takes longer than ``wait_seconds``."""
    holder = uuid.uuid4().hex
    _take(store, sync, holder, wait_seconds)
    stop = threading.Event()
    beat = threading.Thread(target=_renew_until, args=(store, sync.id, holder, stop), name="elt-claim", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join(timeout=5)
        with suppress(EltError):  # it ends by itself, and what was started is started
            store.claims.release(sync.id, holder)


def _take(store: Store, sync: StoredSync, holder: str, wait_seconds: float) -> None:
    until = time.monotonic() + wait_seconds
    while not store.claims.take(sync.id, holder):
        if time.monotonic() >= until:
            raise ConflictError(
                f"The sync {sync.slug!r} is being started by another request.", fix="Look at its runs in a moment."
            )
        time.sleep(_POLL_SECONDS)


def _renew_until(store: Store, sync_id: str, holder: str, stop: threading.Event) -> None:
    while not stop.wait(_RENEW_SECONDS):
        try:
            if not store.claims.renew(sync_id, holder):
                return
        except EltError:
            continue  # the next beat tries again

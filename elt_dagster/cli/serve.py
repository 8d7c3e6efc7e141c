"""``elt-dagster serve``: the REST control plane on uvicorn."""

import gc
import logging
import os
import sys

import click

from elt_dagster.cli.session import Session, command, workspace_option
from elt_dagster.errors import ConfigError

BASE_URL_VARIABLE = "ELT_DAGSTER_BASE_URL"
FRESH_SECONDS = 0.25
"""For how long the server may not know of a run that others have started."""
RATE_VARIABLE = "ELT_DAGSTER_API_REQUESTS_PER_MINUTE"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option(
    "--base-url",
    metavar="URL",
    help=f"How browsers reach this server, behind a proxy; default ${BASE_URL_VARIABLE}, else host and port.",
)
@workspace_option
@command
def serve(session: Session, *, host: str, port: int, base_url: str | None, workspace_file: str | None) -> None:
    """Serve the REST API: the Connect, Syncs and Loaders dialects, with OpenAPI at /openapi.json and a browser for it at /docs.

    Runs are those of the Dagster at $ELT_DAGSTER_WEBSERVER_URL; without it, of the workspace file, and then they end with this server.
    """
    try:
        import uvicorn

        from elt_dagster.api.app import create_app
        from elt_dagster.api.services import DEFAULT_REQUESTS_PER_MINUTE, Services
    except ImportError as error:
        raise ConfigError(
            f"The API needs the package {error.name}.", fix="Run: pip install 'elt-dagster[api]'."
        ) from None
    session.store.stay_open()
    session.store.init()
    _show_first_key(session)
    _log_to_stderr()
    with session.runs(workspace_file, fresh_seconds=FRESH_SECONDS) as runs:
        services = Services(
            store=session.store,
            runs=runs,
            base_url=(base_url or os.environ.get(BASE_URL_VARIABLE) or f"http://{_shown(host)}:{port}").rstrip("/"),
            requests_per_minute=_number(os.environ.get(RATE_VARIABLE), DEFAULT_REQUESTS_PER_MINUTE),
        )
        session.say(f"Serving at {services.base_url}/docs")
        _collect_rarely()
        # no access log: addresses carry the states and codes of OAuth
        uvicorn.run(
            create_app(services), host=host, port=port, access_log=False, log_level="warning", server_header=False
        )


def _collect_rarely() -> None:
    """What the server keeps is much and lives long; looking through it after every few hundred objects costs a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _show_first_key(session: Session) -> None:
    made = session.store.api_keys.create_first()
    if made is not None:
        key, text = made
        session.say(
            f"No API key was there, so one was made for the workspace {key.workspace!r}. It is shown this once:"
        )
        session.say(f"    {text}")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    for name in ("elt_dagster.api", "elt_dagster.audit"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers, logger.propagate = [handler], False


def _shown(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - asked, not bound


def _number(text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{RATE_VARIABLE} is {text!r}.", fix="Set a whole number of requests a minute, at least 1.")
    return int(text)

"""``init``, ``apply``, ``export``: the store and what stands in it."""

from typing import TYPE_CHECKING

import click

from elt_dagster.cli.session import Session, command

if TYPE_CHECKING:
    from rich.text import Text

    from elt_dagster.control.changes import Changes, FieldChange


@click.command()
@command
def init(session: Session) -> None:
    """Make the store, or bring it up to date. Safe to repeat.

    The store is at --store, else at $ELT_DAGSTER_STORE (SQLite or Postgres), else in a SQLite file under $DAGSTER_HOME or ./.elt_dagster.
    """
    changed = session.store.init()
    where = session.store.url_shown
    data = {"store": where, "changed": changed, "workspace": session.workspace_name}
    session.answer(data, f"{'The store is ready' if changed else 'The store is up to date'}: {where}")


@click.command()
@click.option(
    "-f", "--file", "file", required=True, metavar="FILE", help="YAML with connections and syncs; - reads stdin."
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Delete connections and syncs the file does not name; their tables stay.")
@click.option(
    "--offline", is_flag=True, help="Ask no source and need no secret; streams stay unknown until the next apply."
)
@click.option("--refresh", is_flag=True, help="Ask every source for its streams again, also for unchanged syncs.")
@command
def apply(session: Session, *, file: str, dry_run: bool, prune: bool, offline: bool, refresh: bool) -> None:
    """Make the store say what FILE says: all of it, or nothing.

    Everything is checked first: names, types, secrets, that each stream and column exists at its source. Applying twice changes nothing.
    Relative paths in a `config` count from the folder where the sync runs, not from FILE.
    """
    from elt_dagster.control.yaml_file import read_project_file

    read = read_project_file(file)
    changes = session.workspace.apply(
        read.project, dry_run=dry_run, prune=prune, verify=not offline, refresh=refresh, locate=read.locate
    )
    revision = session.store.revision(session.workspace_name)
    data = {**changes.to_json(), "dry_run": dry_run, "revision": revision}
    session.answer(data, _diff(changes))
    outcome = "Dry run, nothing was written: " if dry_run else "Applied: " if changes else "Nothing to do: "
    session.say(f"{outcome}{changes.summary}.")


@click.command()
@command
def export(session: Session) -> None:
    """Print the workspace as YAML that `apply` takes.

    References such as {env: NAME} stay; a secret kept in the store shows as ********, which means "as it is" when it is applied again.
    """
    from elt_dagster.control.yaml_file import to_yaml
    from elt_dagster.store import BrokenSync

    project = session.workspace.export()
    for sync in session.workspace.configured_syncs():
        if isinstance(sync, BrokenSync):
            session.say(f"Left out: {sync.error}", style="yellow")
    if session.as_json:
        session.answer(project.model_dump(mode="json", by_alias=True))
    else:
        click.echo(to_yaml(project), nl=False)


def _diff(changes: "Changes") -> "Text":
    from rich.text import Text

    from elt_dagster.control.changes import Action

    signs = {Action.CREATE: ("+", "green"), Action.UPDATE: ("~", "yellow"), Action.DELETE: ("-", "red")}
    text = Text()
    for change in changes:
        if change.action in signs:
            sign, style = signs[change.action]
            text.append(f"{sign} {change.kind} {change.name}\n", style=f"bold {style}")
            for field in change.fields:
                _add_field(text, field)
    text.rstrip()
    return text


def _add_field(text: "Text", field: "FieldChange") -> None:
    from elt_dagster.cli.show import cell

    if field.before is None:
        text.append(f"    + {field.field}: {cell(field.after)}\n", style="green")
    elif field.after is None:
        text.append(f"    - {field.field}: {cell(field.before)}\n", style="red")
    else:
        text.append(f"    ~ {field.field}: {cell(field.before)} → {cell(field.after)}\n", style="yellow")

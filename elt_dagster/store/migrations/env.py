"""What Alembic runs around the migrations: always inside the caller's connection and transaction."""

from alembic import context

from elt_dagster.store.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite cannot alter a constraint in place
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

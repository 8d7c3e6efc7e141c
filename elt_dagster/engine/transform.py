"""Between source and warehouse: exclude, hash, cast to canonical types, rename, stamp. Vectorised; no value becomes a Python object."""

import pyarrow as pa

from elt_dagster.engine.plan import DELETION_MARK, METADATA_COLUMNS, StreamPlan
from elt_dagster.errors import ContractError, PrimaryKeyError
from elt_dagster.model import DeleteMode
from elt_dagster.model.compute import pc
from elt_dagster.model.names import check_collisions
from elt_dagster.model.types import canonical
from elt_dagster.sdk.calculator import calculator


class Transform:
    """Turns the source's batches of one stream into the warehouse's. Used by one thread."""

    def __init__(self, plan: StreamPlan, salt: bytes) -> None:
        self._plan = plan
        self._salt = salt
        self._names = dict(plan.resolved.names)
        self._excluded = frozenset(plan.resolved.binding.excluded_columns)

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """``batch`` with warehouse names and canonical types. Raises PrimaryKeyError for a NULL in the primary key.

        Rows that the source reports as deleted carry the time in ``_elt_deleted_at``; they are left out where deletes are ignored.
        """
        self._check_keys(batch)
        marks = self._deletion_marks(batch)
        if marks is not None and self._plan.load.deletes is DeleteMode.IGNORE:
            batch, marks = batch.filter(pc.is_null(marks)), None
        fields: list[pa.Field] = []
        arrays: list[pa.Array] = []
        names = self._names_of(batch.schema)
        for index, field in enumerate(batch.schema):
            if field.name in self._excluded:
                continue
            array = batch.column(index)
            if field.name in self._plan.hashed:
                array = _hashed(array, self._salt)
            elif (kind := canonical(field.type)) != field.type:
                array = _cast(array, kind)
            fields.append(field.with_name(names[field.name]).with_type(array.type))
            arrays.append(array)
        if self._plan.add_metadata:
            fields += METADATA_COLUMNS
            arrays += self._stamps(batch.num_rows)
        if marks is not None:
            fields.append(DELETION_MARK)
            arrays.append(marks)
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _names_of(self, schema: pa.Schema) -> dict[str, str]:
        unknown = [n for n in schema.names if n not in self._names and n not in self._excluded]
        if unknown:  # the source has columns that were not there when the sync was written
            stream = self._plan.resolved.stream.name
            self._names = check_collisions([*self._names, *unknown], what=f"stream {stream!r}")
        return self._names

    def _check_keys(self, batch: pa.RecordBatch) -> None:
        stream = self._plan.resolved.stream.name
        for column in self._plan.resolved.primary_key:
            index = batch.schema.get_field_index(column)
            if index < 0:
                raise ContractError(f"Stream {stream!r}: a batch lacks the primary key column {column!r}.")
            if missing := batch.column(index).null_count:
                raise PrimaryKeyError(
                    f"Stream {stream!r}: the primary key column {column!r} is NULL in {missing} of {batch.num_rows} rows.",
                    fix="Set primary_key to columns that are never NULL, or load without one (load_mode append or replace).",
                    column=column,
                    missing=missing,
                    rows=batch.num_rows,
                )

    def _deletion_marks(self, batch: pa.RecordBatch) -> pa.Array | None:
        """When each row was deleted, NULL for the living; None where the source reports no deletes, or every row is kept as it comes."""
        name = self._plan.resolved.deleted_field
        if name is None or (index := batch.schema.get_field_index(name)) < 0:
            return None
        value = batch.column(index)
        gone = pc.fill_null(value, False) if pa.types.is_boolean(value.type) else pc.is_valid(value)
        now = pa.scalar(self._plan.run.started_at, DELETION_MARK.type)
        return pc.if_else(gone, now, pa.scalar(None, DELETION_MARK.type))

    def _stamps(self, rows: int) -> list[pa.Array]:
        run = self._plan.run
        return [
            pa.repeat(pa.scalar(run.started_at, METADATA_COLUMNS[0].type), rows),
            pa.repeat(pa.scalar(run.run_id, METADATA_COLUMNS[1].type), rows),
        ]


def _hashed(array: pa.Array, salt: bytes) -> pa.Array:
    """Salted SHA-256 in lower-case hex of each value's text, that of a moment in UTC; NULL stays NULL. DuckDB computes it, for Arrow has no SHA."""
    storage = array.storage if isinstance(array.type, pa.BaseExtensionType) else array
    with calculator() as connection:
        connection.register("v", pa.table({"v": storage}))
        return _single(connection.sql("SELECT sha256(? || v::VARCHAR) FROM v", params=[salt.hex()]).to_arrow_table())


def canonical_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` with canonical types and its own column names: for tables that no connector read."""
    kinds = [canonical(field.type) for field in batch.schema]
    fields = [field.with_type(kind) for field, kind in zip(batch.schema, kinds, strict=True)]
    arrays = [a if a.type == kind else _cast(a, kind) for a, kind in zip(batch.columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):  # nested values become JSON text
        return kind.wrap_array(_to_json(array)) if pa.types.is_nested(array.type) else array.cast(kind)
    storage = array.storage if isinstance(array.type, pa.BaseExtensionType) else array
    return pc.cast(storage, kind)


def _to_json(array: pa.Array) -> pa.Array:
    with calculator() as connection:
        connection.register("v", pa.table({"v": array}))
        return _single(connection.sql("SELECT to_json(v)::VARCHAR FROM v").to_arrow_table())


def _single(table: pa.Table) -> pa.Array:
    """The only column of ``table`` as one string array."""
    return pa.concat_arrays(
        [chunk.cast(pa.string()) for chunk in table.column(0).chunks] or [pa.array([], pa.string())]
    )

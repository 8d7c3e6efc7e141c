"""Alembic migrations of the store, run by `elt_dagster.store.upgrade`; they are part of the package.

A new one: copy the newest file in `versions`, give it the next number of four digits, change `schema.HEAD`. The tests compare
what the migrations build with `schema.metadata`, on both engines.
"""

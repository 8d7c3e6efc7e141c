"""The loaders routes."""

from fastapi import APIRouter

from elt_dagster.api.routes import KeyedRoute

router = APIRouter(route_class=KeyedRoute)

"""salesforce keeps the contract, by REST and by bulk jobs; and what is particular to it."""

from elt_dagster.registry import load_connector
from elt_dagster.testing import HttpConnectorContract
from tests.contract.salesforce_org import SETTINGS, Org

Salesforce = load_connector("salesforce")


class BulkOrg(Org):
    """The org, asked by jobs."""

    bulk_only_is_data = True


class TestByRest(HttpConnectorContract):
    """The free tests."""

    connector = Salesforce
    settings = SETTINGS
    source = Org


class TestByBulk(HttpConnectorContract):
    """The free tests, once more for the other way to read."""

    connector = Salesforce
    settings = {**SETTINGS, "api_type": "bulk"}
    source = BulkOrg

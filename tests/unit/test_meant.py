"""Names of streams as people write them."""

import pytest

from elt_dagster.control.meant import meant

SALESFORCE = ["Account", "AccountHistory", "Contact", "Opportunity", "Case", "Product2", "Task", "Tasks"]


@pytest.mark.parametrize(
    ("written", "stream"),
    [
        ("accounts", "Account"),
        ("contacts", "Contact"),
        ("opportunities", "Opportunity"),
        ("cases", "Case"),
        ("product2", "Product2"),
        ("Tasks", "Tasks"),
        ("Task", "Task"),
    ],
)
def test_singular_plural_and_case_lead_to_the_one_stream(written: str, stream: str) -> None:
    assert meant([written], SALESFORCE) == {written: stream}


@pytest.mark.parametrize("written", ["account_history", "leads", "", "task", "s"])
def test_what_is_not_there_or_could_be_two_leads_nowhere(written: str) -> None:
    assert meant([written], SALESFORCE) == {}

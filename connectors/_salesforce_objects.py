"""What an org has: its objects, their fields, and the streams they make. From ``sobjects`` and ``describe``; pure but for what is handed in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

from elt_dagster.sdk import JSON, TIMESTAMP_UTC, Stream

KEY = "Id"
DELETED = "IsDeleted"
CURSORS = ("SystemModstamp", "LastModifiedDate", "CreatedDate", "LoginTime")
"""Best first. A field serves only where describe says that it can be filtered on."""
COMMON = frozenset({
    "Account", "Asset", "Campaign", "CampaignMember", "Case", "CaseComment", "Contact", "Contract", "Event", "Lead", "Opportunity",
    "OpportunityContactRole", "OpportunityHistory", "OpportunityLineItem", "Order", "OrderItem", "Pricebook2", "PricebookEntry",
    "Product2", "RecordType", "Task", "User", "UserRole",
})  # fmt: skip
"""What a form preselects, with the custom objects."""
LINKS, DOCUMENTS = "ContentDocumentLink", "ContentDocument"
"""Links can only be asked for by their documents."""

_NEEDS_A_FILTER = frozenset({
    "Announcement", "AppTabMember", "CollaborationGroupRecord", "ColorDefinition", "ContentFolderItem", "ContentFolderMember",
    "DataStatistics", "DatacloudAddress", "EntityParticle", "FieldDefinition", "FieldSecurityClassification", "FlowTestView",
    "FlowVariableView", "FlowVersionView", "IconDefinition", "IdeaComment", "OwnerChangeOptionInfo", "PicklistValueInfo",
    "PlatformAction", "RelationshipDomain", "RelationshipInfo", "SearchLayout", "SiteDetail", "TenantUsageEntitlement",
    "UserAppMenuItem", "UserEntityAccess", "UserFieldAccess", "Vote",
})  # fmt: skip
_NOT_QUERYABLE = frozenset({
    "ActivityHistory", "ActivityMetric", "ActivityMetricRollup", "AggregateResult", "AttachedContentDocument", "CombinedAttachment",
    "EmailStatus", "FeedLike", "LookedUpFromActivity", "Name", "NoteAndAttachment", "OpenActivity", "OwnedContentDocument",
    "ProcessInstanceHistory", "UserRecordAccess",
})  # fmt: skip
_NOT_IN_BULK = frozenset({
    "AcceptedEventRelation", "AssetTokenEvent", "Attachment", "CaseStatus", "CaseTeamMember", "CaseTeamRole", "CaseTeamTemplate",
    "CaseTeamTemplateMember", "CaseTeamTemplateRecord", "ContentDocumentLink", "ContentFolderItem", "ContractStatus",
    "DeclinedEventRelation", "EventRelation", "EventWhoRelation", "FieldSecurityClassification", "OrderStatus", "PartnerRole",
    "RecentlyViewed", "ServiceAppointmentStatus", "SolutionStatus", "TaskPriority", "TaskRelation", "TaskStatus", "TaskWhoRelation",
    "UndecidedEventRelation", "WorkOrderLineItemStatus", "WorkOrderStatus", "WorkStepStatus",
})  # fmt: skip
_NOT_IN_BULK_NAMED = re.compile(r"Feed$|^KnowledgeArticle|__kav$|ShareRule$")
_TYPES: Mapping[str, pa.DataType] = {
    "int": pa.int64(), "long": pa.float64(), "double": pa.float64(), "currency": pa.float64(), "percent": pa.float64(),
    "boolean": pa.bool_(), "date": pa.date32(), "datetime": TIMESTAMP_UTC, "address": JSON, "location": JSON,
}  # fmt: skip
"""Everything else is text: ids, picklists, times of day, and types that come in time."""
_PARTS: Mapping[str, str] = {
    "Street": "street", "City": "city", "State": "state", "PostalCode": "postalCode", "Country": "country", "StateCode": "stateCode",
    "CountryCode": "countryCode", "Latitude": "latitude", "Longitude": "longitude", "GeocodeAccuracy": "geocodeAccuracy",
}  # fmt: skip
_PART = re.compile(f"({'|'.join(sorted(_PARTS, key=len, reverse=True))})(?:__s)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field, as ``describe`` tells it."""

    name: str
    type: str
    filterable: bool
    nillable: bool
    compound: str | None
    label: str

    @property
    def column(self) -> pa.Field:
        """The column it becomes; its label is the description."""
        # a row from the recycle bin may lack what a living one must have
        nullable = self.nillable or self.name != KEY
        told = {"description": self.label} if self.label and self.label != self.name else None
        return pa.field(self.name, _TYPES.get(self.type, pa.string()), nullable, told)

    @property
    def is_compound(self) -> bool:
        """Whether it is made of other fields, which bulk queries can have and this one not."""
        return self.type in ("address", "location")


@dataclass(frozen=True, slots=True)
class Described:
    """One object with its fields in the order of ``describe``."""

    name: str
    label: str
    custom: bool
    fields: Mapping[str, Field]

    @property
    def cursors(self) -> tuple[str, ...]:
        """The fields that can be read on from, best first; of a history, whose rows never change, when they were made."""
        order = sorted(CURSORS, key=lambda c: c != "CreatedDate") if self.name.endswith("History") else CURSORS
        return tuple(c for c in order if c in self.fields and self.fields[c].filterable)

    def parts_of(self, compound: str) -> dict[str, str]:
        """The fields that a compound one is made of, by the name each has inside of it."""
        found = {
            f.name: _PART.search(f.name) for f in self.fields.values() if f.compound == compound and not f.is_compound
        }
        return {_PARTS[part[1]]: name for name, part in found.items() if part}

    def stream(self) -> Stream:
        """The stream this object is."""
        cursors = self.cursors
        return Stream(
            name=self.name,
            schema=pa.schema([f.column for f in self.fields.values()]),
            primary_key=(KEY,),
            cursor_field=cursors[0] if cursors else None,
            cursor_fields=cursors,
            deleted_field=DELETED if DELETED in self.fields else None,
            ordered=bool(cursors) and self.name != LINKS,
            depends_on=(DOCUMENTS,) if self.name == LINKS else (),
            description=self.label if self.label != self.name else "",
            selected=self.name in COMMON or (self.custom and self.name.endswith("__c")),
        )


def described(answer: Mapping[str, Any]) -> Described:
    """What a ``describe`` answered."""
    fields = [
        Field(
            name=f["name"], type=f["type"], filterable=bool(f.get("filterable")), nillable=bool(f.get("nillable", True)),
            compound=f.get("compoundFieldName"), label=f.get("label") or "",
        )
        for f in answer.get("fields", ()) if re.fullmatch(r"\w+", f["name"])
    ]  # fmt: skip
    known = {f.name: f for f in fields}
    return Described(answer["name"], answer.get("label") or "", bool(answer.get("custom")), known)


def offered(sobjects: Sequence[Mapping[str, Any]], patterns: Sequence[str]) -> list[str]:
    """The names of the objects that can be read whole and match one of ``patterns`` (all, where there is none), sorted."""
    names = {str(o["name"]) for o in sobjects if o.get("queryable") and not o.get("deprecatedAndHidden")}
    return sorted(n for n in names if can_be_read(n) and (not patterns or any(fnmatchcase(n, p) for p in patterns)))


def can_be_read(name: str) -> bool:
    """Whether an object that says it is queryable can be queried without knowing what is in it."""
    return not (
        name.endswith(("ChangeEvent", "EventStream")) or name in _NEEDS_A_FILTER or name in _NOT_QUERYABLE
    ) and bool(re.fullmatch(r"\w+", name))


def bulk_can_read(name: str) -> bool:
    """Whether the Bulk API knows the object."""
    return name not in _NOT_IN_BULK and not _NOT_IN_BULK_NAMED.search(name)

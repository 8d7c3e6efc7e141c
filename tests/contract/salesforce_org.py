"""A pretend Salesforce org: it reads SOQL, filters, sorts and pages, runs bulk jobs, rotates refresh tokens, counts requests, and stumbles when told to."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qs

import httpx

from elt_dagster.testing import FakeSource

HOST = "https://acme.my.salesforce.com"
DATA = "/services/data/v62.0"
MOST_URI_BYTES = 16_384
START = datetime(2024, 1, 1, tzinfo=UTC)
NOT_IN_BULK = {"Attachment", "ContentDocumentLink"}
SECRET, REFRESH = "client-SECRET-1", "refresh-SECRET-0"
SETTINGS: dict[str, Any] = {
    "client_id": "app", "client_secret": SECRET, "refresh_token": REFRESH, "domain": "acme.my.salesforce.com",
}  # fmt: skip

_SOQL = re.compile(
    r"SELECT (?P<fields>[\w,]+|COUNT\(\)) FROM (?P<name>\w+)(?: WHERE (?P<where>.*?))?(?: ORDER BY (?P<order>[\w ,]+?))?$"
)
_COMPARED = re.compile(r"(\w+) (>=|<) (\S+)")
_LISTED = re.compile(r"(\w+) IN \((.*)\)")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_PARTS = {
    "street": "Street", "city": "City", "state": "State", "postalCode": "PostalCode", "country": "Country", "latitude": "Latitude",
    "longitude": "Longitude", "geocodeAccuracy": "GeocodeAccuracy",
}  # fmt: skip
Row = dict[str, Any]


def hours(n: float) -> datetime:
    """So many hours after the start."""
    return START + timedelta(hours=n)


def key(prefix: str, n: int) -> str:
    """An id of 18 characters."""
    return f"{prefix}{n:012d}AAA"


def fields(**types: str) -> list[dict[str, Any]]:
    """A describe's list of fields; ``!`` after a type makes it one that cannot be filtered on."""
    found: list[dict[str, Any]] = []
    for name, kind in types.items():
        compound = next(
            (n for n, k in types.items() if k == "address" and name != n and name.startswith(n[: -len("Address")])),
            None,
        )
        found.append({
            "name": name, "type": kind.rstrip("!"), "filterable": not kind.endswith("!"), "nillable": name != "Id",
            "calculated": False, "label": name, "compoundFieldName": compound if name.startswith("Billing") else None,
        })  # fmt: skip
    return found


@dataclass
class SObject:
    """One object: its describe and its rows, which hold Python values."""

    fields: list[dict[str, Any]]
    rows: list[Row] = field(default_factory=list[Row])
    custom: bool = False
    queryable: bool = True

    @property
    def names(self) -> list[str]:
        """The fields' names."""
        return [f["name"] for f in self.fields]

    def type_of(self, name: str) -> str:
        """A field's type."""
        return next(str(f["type"]) for f in self.fields if f["name"] == name)


@dataclass
class Job:
    """A bulk query."""

    query: str
    deleted_too: bool
    pages: list[list[Row]]
    polls: int
    state: str = "UploadComplete"


def usual_objects() -> dict[str, SObject]:
    """A handful of objects with what is odd about each."""
    account = SObject(fields(
        Id="id", IsDeleted="boolean", Name="string", AnnualRevenue="currency", NumberOfEmployees="int", BillingStreet="textarea",
        BillingCity="string", BillingLatitude="double", BillingLongitude="double", BillingAddress="address", Opened__c="date",
        Shift__c="time", Rating="picklist", CreatedDate="datetime", LastModifiedDate="datetime", SystemModstamp="datetime",
    ))  # fmt: skip
    for n in range(30):
        city, street = (None, None) if n % 5 == 4 else ("Oslo", f'Gate {n},\n"bak"')
        account.rows.append({
            "Id": key("001", n), "IsDeleted": n % 7 == 6, "Name": ["NA", "null", "None", "Globex, Inc."][n % 4], "AnnualRevenue": None if n % 3 else n * 1.25,
            "NumberOfEmployees": n, "BillingStreet": street, "BillingCity": city, "BillingLatitude": None if city is None else 59.5,
            "BillingLongitude": None, "Opened__c": f"2024-02-{n % 28 + 1:02d}", "Shift__c": "10:30:00.000Z", "Rating": None,
            "CreatedDate": hours(n), "LastModifiedDate": hours(n), "SystemModstamp": hours((n * 7) % 30 // 2),
        })  # fmt: skip
    history = SObject(
        fields(Id="id", IsDeleted="boolean", AccountId="reference", OldValue="anyType", CreatedDate="datetime")
    )
    history.rows = [
        {
            "Id": key("017", n),
            "IsDeleted": False,
            "AccountId": key("001", n),
            "OldValue": f"v{n}",
            "CreatedDate": hours(n),
        }
        for n in range(12)
    ]
    activity = SObject(fields(Id="id", Field="string", CreatedDate="datetime", SystemModstamp="datetime!"))
    activity.rows = [
        {"Id": key("0AX", n), "Field": "Status", "CreatedDate": hours(n), "SystemModstamp": hours(n)} for n in range(9)
    ]
    attachment = SObject(fields(Id="id", IsDeleted="boolean", Name="string", Body="base64", SystemModstamp="datetime"))
    attachment.rows = [
        {
            "Id": key("00P", n),
            "IsDeleted": False,
            "Name": f"a{n}",
            "Body": f"{DATA}/sobjects/Attachment/{n}/Body",
            "SystemModstamp": hours(n),
        }
        for n in range(5)
    ]
    document = SObject(fields(Id="id", IsDeleted="boolean", Title="string", SystemModstamp="datetime"))
    document.rows = [
        {"Id": key("069", n), "IsDeleted": False, "Title": f"d{n}", "SystemModstamp": hours(n)} for n in range(21)
    ]
    link = SObject(fields(Id="id", IsDeleted="boolean", ContentDocumentId="reference", SystemModstamp="datetime"))
    link.rows = [
        {"Id": key("06A", n), "IsDeleted": False, "ContentDocumentId": key("069", n % 21), "SystemModstamp": hours(n)}
        for n in range(40)
    ]
    status = SObject(
        fields(Id="id", MasterLabel="string"), [{"Id": key("0Af", n), "MasterLabel": f"s{n}"} for n in range(3)]
    )
    return {
        "Account": account, "AccountHistory": history, "ActivityFieldHistory": activity, "Attachment": attachment,
        "ContentDocument": document, "ContentDocumentLink": link, "OrderStatus": status,
        "Vote": SObject(fields(Id="id")), "LeadChangeEvent": SObject(fields(Id="id")), "Hidden": SObject(fields(Id="id"), queryable=False),
    }  # fmt: skip


def wide_object(rows: int, columns: int) -> SObject:
    """An object whose fields do not fit into one address."""
    names = [f"A_rather_long_name_of_a_field_{n}__c" for n in range(columns)]
    found = SObject(fields(Id="id", SystemModstamp="datetime", **dict.fromkeys(names, "double")), custom=True)
    found.rows = [
        {"Id": key("a01", n), "SystemModstamp": hours(n), **{name: n * 1000.0 + i for i, name in enumerate(names)}}
        for n in range(rows)
    ]
    return found


class Org(FakeSource):
    """The org. ``now`` is its clock; a row is found from ``visible_after`` seconds after its modification on, as its index lags."""

    bulk_only_is_data = False

    def __init__(self, objects: dict[str, SObject] | None = None) -> None:
        super().__init__()
        self.objects = objects if objects is not None else usual_objects()
        self.page_size = 8
        self.polls = 0
        self.jobs: dict[str, Job] = {}
        self.lists: dict[str, tuple[list[str], str, list[Row], int]] = {}
        self.used, self.most = 0, 1_000_000
        self.rotates = False
        self.refresh_token = REFRESH
        self.spent: list[str] = []
        self.revoked = False
        self.access: set[str] = set()
        self.tokens = 0
        self.drops: list[Callable[[httpx.Request], httpx.Response]] = []
        self.refuses_bulk: dict[str, Any] | None = None
        self.fails_jobs = ""
        self.breaks_at: int | None = None
        self.sees: Callable[[Row], bool] = lambda _: True
        self.instance = HOST

    # -- what the contract asks -------------------------------------------------------------------------------------------

    @property
    def rows(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        readable = [n for n in self.objects if n not in ("Vote", "LeadChangeEvent", "Hidden")]
        return {
            n: [self._rest(self.objects[n], self.objects[n].names, r) for r in self.objects[n].rows] for n in readable
        }

    def is_data(self, request: httpx.Request) -> bool:
        path = request.url.path
        return path.endswith("/results") if self.bulk_only_is_data else f"{DATA}/query" in path

    def endless(self) -> httpx.Response:
        if self.bulk_only_is_data:
            return httpx.Response(
                200,
                text='"Id","SystemModstamp"\n"001","2024-01-01T00:00:00.000Z"\n',
                headers={"Sforce-Locator": "again"},
            )
        rows = [
            self._rest(self.objects["Account"], ["Id", "SystemModstamp"], r) for r in self.objects["Account"].rows[:3]
        ]
        return httpx.Response(
            200, json={"totalSize": 99, "done": False, "nextRecordsUrl": f"{DATA}/query/again", "records": rows}
        )

    def elsewhere_page(self) -> httpx.Response | None:
        if self.bulk_only_is_data:
            return None
        return httpx.Response(
            200, json={**self.endless().json(), "nextRecordsUrl": f"https://elsewhere.example{DATA}/query/x"}
        )

    # -- answers ------------------------------------------------------------------------------------------------------------

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/services/oauth2/token":
            return self._token({k: v[0] for k, v in parse_qs(request.content.decode()).items()})
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.access:
            return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if len(str(request.url)) + sum(len(k) + len(v) + 4 for k, v in request.headers.items()) > MOST_URI_BYTES:
            return httpx.Response(414, text="URI Too Long")
        if self.used >= self.most:
            return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        self.used += 1
        response = self._routed(request, path)
        response.headers["Sforce-Limit-Info"] = (
            f"per-app-api-usage=17/250(appName=x); api-usage={self.used}/{self.most}"
        )
        return response

    def _routed(self, request: httpx.Request, path: str) -> httpx.Response:  # noqa: PLR0911 - one line per address
        rest = path.removeprefix(DATA)
        if rest in ("", "/"):
            return httpx.Response(200, json={"sobjects": f"{DATA}/sobjects"})
        if rest == "/sobjects":
            listed = [
                {"name": n, "queryable": o.queryable, "custom": o.custom} for n, o in reversed(self.objects.items())
            ]
            return httpx.Response(200, json={"sobjects": listed})
        if found := re.fullmatch(r"/sobjects/(\w+)/describe", rest):
            return self._describe(found[1])
        if rest in ("/query", "/queryAll"):
            return self._query(str(request.url.params["q"]), rest == "/queryAll")
        if found := re.fullmatch(r"/query/(\w+)-(\d+)", rest):
            return (
                self._page(found[1], int(found[2]))
                if not request.url.query
                else _error(400, "MALFORMED", "no parameters")
            )
        if rest.startswith("/jobs/query"):
            return self._jobs(request, rest)
        return _error(404, "NOT_FOUND", "The requested resource does not exist")

    def _token(self, form: dict[str, str]) -> httpx.Response:
        grant = form["grant_type"]
        if grant == "refresh_token" and (self.revoked or form["refresh_token"] != self.refresh_token):
            self.revoked = self.revoked or self.rotates  # an old one used again takes the whole grant with it
            return httpx.Response(
                400, json={"error": "invalid_grant", "error_description": "expired access/refresh token"}
            )
        if grant == "client_credentials" and form.get("client_secret") != SECRET:
            return httpx.Response(400, json={"error": "invalid_client"})
        self.tokens += 1
        token = f"access-{self.tokens}"
        self.access.add(token)
        answer = {"access_token": token, "instance_url": self.instance, "token_type": "Bearer"}
        if grant == "refresh_token":
            self.spent.append(form["refresh_token"])
            if self.rotates:
                self.refresh_token = answer["refresh_token"] = f"refresh-SECRET-{self.tokens}"
        return httpx.Response(200, json=answer)

    def _describe(self, name: str) -> httpx.Response:
        if name not in self.objects:
            return _error(404, "NOT_FOUND", "The requested resource does not exist")
        found = self.objects[name]
        return httpx.Response(
            200,
            json={
                "name": name,
                "label": name,
                "custom": found.custom,
                "queryable": found.queryable,
                "fields": found.fields,
            },
        )

    # -- queries ------------------------------------------------------------------------------------------------------------

    def _selected(self, soql: str, deleted_too: bool) -> "tuple[list[str], str, list[Row]] | httpx.Response":
        """Fields, object and rows of a query, or what is wrong with it."""
        found = _SOQL.fullmatch(soql)
        if found is None:
            return _error(400, "MALFORMED_QUERY", "unexpected token")
        name, asked = found["name"], found["fields"].split(",")
        if name not in self.objects:
            return _error(400, "INVALID_TYPE", f"sObject type '{name}' is not supported.")
        known = self.objects[name]
        compared, listed = _COMPARED.findall(found["where"] or ""), _LISTED.findall(found["where"] or "")
        used = [*asked, *(c[0] for c in compared), *(c[0] for c in listed)]
        filterable = {f["name"] for f in known.fields if f["filterable"]}
        if (
            any(n not in known.names for n in used)
            or any(c[0] not in filterable for c in compared)
            or len(set(asked)) < len(asked)
        ):
            return _error(400, "INVALID_FIELD", "No such column, or it is not filterable")
        if name == "ContentDocumentLink" and not listed:
            return _error(400, "MALFORMED_QUERY", "Implementation restriction: filter by a single Id")
        rows = [r for r in known.rows if self.sees(r) and (deleted_too or not r.get("IsDeleted"))]
        for column, sign, text in compared:
            assert _TIME.fullmatch(text), text
            limit = datetime.fromisoformat(text)
            rows = [
                r for r in rows if r[column] is not None and (r[column] >= limit if sign == ">=" else r[column] < limit)
            ]
        for column, values in listed:
            wanted = {v.strip("'") for v in values.split(",")}
            rows = [r for r in rows if r[column] in wanted]
        for term in reversed((found["order"] or "").split(", ")):
            if term:
                rows = sorted(rows, key=itemgetter(term.split()[0]))
        return asked, name, rows

    def _query(self, soql: str, deleted_too: bool) -> httpx.Response:
        found = self._selected(soql, deleted_too)
        if isinstance(found, httpx.Response):
            return found
        locator = f"01g{len(self.lists)}"
        self.lists[locator] = (*found, self.page_size)
        return self._page(locator, 0)

    def _page(self, locator: str, at: int) -> httpx.Response:
        if locator not in self.lists:
            return _error(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        asked, name, rows, size = self.lists[locator]
        records = [
            {"attributes": {"type": name, "url": f"{DATA}/x"}, **self._rest(self.objects[name], asked, r)}
            for r in rows[at : at + size]
        ]
        body: dict[str, Any] = {"totalSize": len(rows), "done": at + size >= len(rows), "records": records}
        if not body["done"]:
            body["nextRecordsUrl"] = f"{DATA}/query/{locator}-{at + size}"
        return httpx.Response(200, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})

    @staticmethod
    def _rest(known: SObject, asked: Sequence[str], row: Row) -> Row:
        """A row as REST writes it."""
        found: Row = {}
        for name in asked:
            value = row.get(name)
            if known.type_of(name) == "address":
                start = name[: -len("Address")]
                parts = {k: row.get(start + part) for k, part in _PARTS.items()}
                value = (
                    None
                    if all(v is None for v in parts.values())
                    else {k: v for k, v in parts.items() if start + _PARTS[k] in known.names}
                )
            if isinstance(value, datetime):
                value = f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}+0000"
            found[name] = value
        return found

    # -- bulk ---------------------------------------------------------------------------------------------------------------

    def _jobs(self, request: httpx.Request, rest: str) -> httpx.Response:
        if rest == "/jobs/query":
            return self._submitted(json.loads(request.content))
        number, _, results = rest.removeprefix("/jobs/query/").partition("/")
        job = self.jobs.get(number)
        if job is None:
            return _error(404, "NOT_FOUND", "no such job")
        if request.method == "DELETE":
            del self.jobs[number]
            return httpx.Response(204)
        if request.method == "PATCH":
            job.state = json.loads(request.content)["state"]
        elif results:
            return self._results(request, job)
        elif job.state in ("UploadComplete", "InProgress"):
            job.state = "InProgress" if job.polls else self.fails_jobs or "JobComplete"
            job.polls -= 1
        return httpx.Response(200, json={"id": number, "state": job.state, "errorMessage": "QUERY_TIMEOUT: " + job.query, "createdDate": "2024-06-01T00:00:00.000+0000",
                                         "numberRecordsProcessed": sum(map(len, job.pages))})  # fmt: skip

    def _submitted(self, order: dict[str, Any]) -> httpx.Response:
        if self.refuses_bulk is not None:
            return httpx.Response(400, json=[self.refuses_bulk])
        assert (order["contentType"], order["columnDelimiter"], order["lineEnding"]) == ("CSV", "COMMA", "LF")
        found = self._selected(order["query"], order["operation"] == "queryAll")
        if isinstance(found, httpx.Response):
            return found
        asked, name, rows = found
        if name in NOT_IN_BULK:
            return _error(400, "INVALIDENTITY", f"Entity '{name}' is not supported by the Bulk API.")
        if any(self.objects[name].type_of(a) in ("address", "location", "base64") for a in asked):
            return _error(400, "FEATURENOTENABLED", "Selecting compound data not supported in Bulk Query")
        number = f"750{len(self.jobs):012d}AAA"
        pages = [
            [{a: r.get(a) for a in asked} for r in rows[i : i + self.page_size]]
            for i in range(0, len(rows), self.page_size)
        ]
        self.jobs[number] = Job(order["query"], order["operation"] == "queryAll", pages or [list[Row]()], self.polls)
        return httpx.Response(200, json={"id": number, "state": "UploadComplete", "object": name})

    def _results(self, request: httpx.Request, job: Job) -> httpx.Response:
        if job.state != "JobComplete":
            return _error(400, "INVALIDJOBSTATE", "not complete")
        assert request.headers["accept"] == "text/csv"
        assert int(request.url.params["maxRecords"]) >= 1
        at = int(request.url.params.get("locator", "0"))
        if at == self.breaks_at:
            return httpx.Response(503)
        if self.drops and at:
            return self.drops.pop()(request)
        text = io.StringIO()
        asked = job.query.removeprefix("SELECT ").partition(" FROM ")[0].split(",")
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(asked)
        writer.writerows([[_csv(row[a]) for a in asked] for row in job.pages[at]])
        following = str(at + 1) if at + 1 < len(job.pages) else "null"
        return httpx.Response(
            200, text=text.getvalue(), headers={"Sforce-Locator": following, "Content-Type": "text/csv"}
        )


def _csv(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}Z"
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _error(status: int, code: str, message: str) -> httpx.Response:
    return httpx.Response(status, json=[{"message": message, "errorCode": code, "fields": []}])

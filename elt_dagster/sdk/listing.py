"""Which files there are, which of them are new, and how the next run will know: all but the listing itself is pure.

Files are read in the order of (modified, path), and the checkpoint after a file names the files of the overlap before it. So ties of
coarse clocks, uploads that appear late, and files that change in place are read, and none is read twice.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from elt_dagster.errors import AuthError, ConfigError, EltError, SourceError, TransientError
from elt_dagster.model import Checkpoint, Window
from elt_dagster.sdk.formats import format_of, stem

MANIFEST_BYTES = 192 * 1024
"""Room for the manifest in a checkpoint, about 2,000 files. When the overlap holds more, the oldest are left out of it: see `New`."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MODIFIED_KEYS = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """A file at the source; ``path`` is relative to the configured folder. Sorts in reading order."""

    modified_ns: int
    path: str
    size: int = 0
    etag: str = ""
    full_path: str = ""

    @property
    def modified(self) -> datetime:
        """When it was last written, rounded down to microseconds."""
        return _EPOCH + timedelta(microseconds=self.modified_ns // 1000)

    @property
    def fingerprint(self) -> list[Any]:
        """What changes when the file does."""
        return [self.modified_ns, self.size, self.etag]


def list_files(fs: Any, root: str, pattern: str = "**") -> list[Found]:
    """Every file below ``root`` that may match ``pattern``, in reading order; hidden and empty marker files are left out.

    Raises ConfigError for a missing folder, AuthError for one that may not be listed, TransientError when the storage is unreachable.
    """
    shown = root.rstrip("/") or "/"
    fixed = re.match(r"(?:[^*?\[{]*/)?", pattern)
    start = f"{root.rstrip('/')}/{fixed[0] if fixed else ''}".rstrip("/") or "/"
    depth = None if "**" in pattern else pattern[fixed.end() if fixed else 0 :].count("/") + 1
    try:
        fs.invalidate_cache()
        if not fs.isdir(root):
            kind = "is a file, not a folder" if fs.exists(root) else "does not exist"
            raise ConfigError(
                f"The folder {shown} {kind}.", fix="Correct the url; single files are named by a stream's glob."
            )
        entries = fs.find(start, maxdepth=depth, detail=True)
    except PermissionError:
        raise AuthError(
            f"The folder {shown} may not be listed.", fix="Check the credentials and their permissions."
        ) from None
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TransientError(
            f"The folder {shown} could not be listed ({type(error).__name__}).",
            fix="Check the address and the network.",
        ) from None
    except EltError:
        raise
    except Exception as error:
        # file systems let their driver's own classes through; their words may repeat an option
        raise _refused(shown, type(error).__name__) from None
    wanted = _wanted_hidden(pattern)
    found = (_found(fs, root, path, info) for path, info in entries.items() if info.get("type") == "file")
    return sorted(f for f in found if f.path and not f.path.endswith("/") and (wanted or not _hidden(f.path)))


def _refused(folder: str, name: str) -> EltError:
    """What a class of a storage driver means, by its name: the drivers are many, and none is imported here."""
    text = f"The folder {folder} could not be listed ({name})."
    if re.search(r"credential|auth|token|accessdenied|forbidden", name, re.IGNORECASE):
        return AuthError(text, fix="Give credentials in storage_options, and check their permissions.")
    if re.search(r"timeout|connect|unavailable", name, re.IGNORECASE):
        return TransientError(text, fix="Check the address and the network.")
    return SourceError(text, fix="Check url and storage_options.")


def matcher(pattern: str) -> "re.Pattern[str]":
    """A glob over relative paths: ``*`` and ``?`` within a folder, ``**`` through folders, ``[...]``, ``{a,b}``."""
    from fsspec.utils import glob_translate

    return re.compile("|".join(glob_translate(p) for p in _alternatives(pattern)))


def group_of(path: str) -> str | None:
    """The stream a file belongs to when none is configured: its top folder, else its name without date or number at the end.

    None for a file whose name tells no format.
    """
    if format_of(path) is None:
        return None
    folder, slash, _ = path.partition("/")
    if slash:
        return folder
    name = stem(path).rpartition(".")[0]
    return re.sub(r"[-_. ]*\d[\d\-_.:T ]*Z?$", "", name) or name


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """What an incremental read takes of a listing.

    A file is new when it was modified after the checkpoint's cursor less ``overlap``, unless the manifest knows it as it is. When the
    manifest could not hold the whole overlap, files at or before its ``from`` position count as read; a file that appears later with an
    older time than that is only found by a full refresh.
    """

    overlap: timedelta
    since: Checkpoint | None = None
    window: Window | None = None
    until: datetime | None = None
    """Younger files are still being written."""

    def __call__(self, files: Iterable[Found]) -> list[Found]:
        """The files to read, in order."""
        return sorted(f for f in files if self._takes(f))

    def _takes(self, file: Found) -> bool:
        if self.until is not None and file.modified > self.until:
            return False
        if self.window is not None:
            return _utc(self.window.start) <= file.modified < _utc(self.window.end)
        if self.since is None or not isinstance(self.since.cursor, datetime):
            return True
        if file.modified < _utc(self.since.cursor) - self.overlap:
            return False
        position = self.since.extra.get("from")
        if position is not None and (file.modified_ns, file.path) <= tuple(position):
            return False
        return bool(self.since.extra.get("files", {}).get(file.path) != file.fingerprint)


class Manifest:
    """The files that were read, as far back as the overlap: what the next checkpoint says."""

    def __init__(self, since: Checkpoint | None, overlap: timedelta, now: datetime) -> None:
        extra = since.extra if since is not None else {}
        known: Mapping[str, list[Any]] = extra.get("files", {})
        self._files = {path: list(fingerprint) for path, fingerprint in known.items()}
        self._from: list[Any] | None = extra.get("from")
        self._overlap = overlap
        self._now = now
        cursor = since.cursor if since is not None else None
        self._cursor: datetime | None = _utc(cursor) if isinstance(cursor, datetime) else None

    def add(self, file: Found) -> None:
        """Note that ``file`` was read to its end."""
        self._files[file.path] = file.fingerprint
        # a clock that runs ahead must not move the cursor past files that are still to come
        reached = min(file.modified, self._now)
        self._cursor = max(self._cursor or reached, reached)

    def checkpoint(self) -> Checkpoint:
        """Reading on from here misses nothing; at most `MANIFEST_BYTES` of manifest."""
        if self._cursor is None:
            return Checkpoint()
        floor = (self._cursor - self._overlap - _EPOCH) // timedelta(microseconds=1) * 1000
        self._files = {p: f for p, f in self._files.items() if f[0] >= floor}
        self._shorten()
        extra: dict[str, Any] = {"files": dict(sorted(self._files.items()))}
        if self._from is not None and self._from[0] >= floor:
            extra["from"] = self._from
        return Checkpoint(self._cursor, extra)

    def _shorten(self) -> None:
        room = MANIFEST_BYTES
        newest = sorted(self._files, key=lambda p: (self._files[p][0], p), reverse=True)
        for index, path in enumerate(newest):
            room -= len(json.dumps([path, self._files[path]])) + 2
            if room < 0:
                left_out = [self._files[path][0], path]
                self._from = max(self._from, left_out) if self._from is not None else left_out
                self._files = {p: self._files[p] for p in newest[:index]}
                return


def _found(fs: Any, root: str, path: str, info: Mapping[str, Any]) -> Found:
    relative = path[len(root.rstrip("/")) :].lstrip("/")
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    return Found(_modified_ns(fs, path, relative, info), relative, int(info.get("size") or 0), etag, path)


def _modified_ns(fs: Any, path: str, relative: str, info: Mapping[str, Any]) -> int:
    if isinstance(info.get("mtime"), float):  # the local file system: a float is too coarse for nanoseconds
        import os

        try:
            return os.stat(path).st_mtime_ns
        except OSError:
            return int(info["mtime"] * 1e9)
    value = next((info[key] for key in _MODIFIED_KEYS if info.get(key) is not None), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return (_utc(value) - _EPOCH) // timedelta(microseconds=1) * 1000
    if isinstance(value, int | float):
        return int(value * 1_000_000_000)
    raise SourceError(
        f"The storage tells no modification time of {relative}.",
        fix="Use a file system that does, such as s3, sftp or file.",
    )


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _hidden(path: str) -> bool:
    return any(part[0] in "._" for part in path.split("/") if part)


def _wanted_hidden(pattern: str) -> bool:
    return any(part[0] in "._" for part in pattern.split("/") if part)


def _alternatives(pattern: str) -> list[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return [p for choice in braces[1].split(",") for p in _alternatives(head + choice + tail)]

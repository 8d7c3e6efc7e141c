"""Files in a local folder or in any storage that fsspec reaches.

A listing is the only way to learn what is new: modification times may be coarse, equal, or older than their appearance (moved files,
long uploads), hence the manifest in `elt_dagster.sdk.listing`. Rows that vanish from a file which is written again stay in the table,
for nothing says that they are gone.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, Secret

from elt_dagster.sdk import ConfigError, FileConfig, FileConnector
from elt_dagster.sdk.egress import brings_credentials, check_storage, is_vendor_storage


class FilesConfig(FileConfig):
    """Where the files are."""

    url: str = Field(min_length=1, examples=["data/exports", "file:///srv/exports", "s3://bucket/exports"])
    """The folder: a local path, or a URL that fsspec knows."""
    storage_options: Secret[dict[str, Any]] = Field(
        default_factory=lambda: Secret({}), json_schema_extra={"writeOnly": True, "format": "password", "default": {}}
    )
    """Options of the file system, such as `key`, `secret` and `endpoint_url` for s3; kept secret as a whole."""

    @classmethod
    def local_settings(cls, settings: Mapping[str, Any]) -> Iterator[str]:
        """See `Config.local_settings`: all but the stores of vendors, opened with credentials of their own."""
        url, options = str(settings.get("url", "")), settings.get("storage_options") or {}
        # options that are kept as they are come as a mask
        if not is_vendor_storage(url) or (isinstance(options, Mapping) and not brings_credentials(url, options)):
            yield from ("url", "storage_options")


class Files(FileConnector[FilesConfig]):
    """CSV, JSON lines and Parquet files in a folder, read once each and again when they change."""

    name = "files"
    title = "Files"
    docs_url = "https://filesystem-spec.readthedocs.io/en/latest/"

    def open_folder(self) -> tuple[Any, str]:
        """The file system of ``url``; a relative path is below the working directory."""
        from fsspec.core import url_to_fs

        scheme = urlsplit(self.config.url).scheme or "file"
        options = self.config.storage_options.get_secret_value()
        check_storage(self.config.url, options, self.runtime.environ)
        try:
            fs, root = url_to_fs(self.config.url, **options)
        except ImportError:
            raise ConfigError(
                f"Reading {scheme}:// needs a Python package that is not installed.",
                fix=f"Run: pip install 'fsspec[{scheme}]'",
            ) from None
        except (ValueError, TypeError) as error:  # their words may repeat an option
            raise ConfigError(
                f"The {scheme}:// file system refuses its url or storage_options ({type(error).__name__}).",
                fix="Compare the options with the file system's page in the fsspec documentation.",
            ) from None
        return fs, str(root)


connector = Files
"""What the registry loads."""

"""
The places that the log is shipped to: a bucket of S3, or a folder.

What is there is never changed: a name is written once, and a second writer gets what
the first one wrote.  In a bucket with versions, a thief can put another version above
ours, or a delete marker; S3 keeps ours as long as it is locked.  So a reader takes the
*oldest* version of each name, and reports the names that have more.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from signer.errors import HotWalletError, InvalidInputError
from signer.private_files import write_whole
from signer.redact import quiet_vendor_loggers


if TYPE_CHECKING:
    from botocore.client import BaseClient  # type: ignore[import-untyped]


class PlaceError(HotWalletError, code="audit-shipping-failed"):
    """The place did not do what was asked, perhaps only for now."""


@dataclass(frozen=True, slots=True)
class Stored:
    """
    A name of the place; *version* is the oldest one.

    It *was_replaced* if there is something above that, and *was_deleted* if that alone
    is left.
    """

    name: str
    version: str | None = None
    was_replaced: bool = False
    was_deleted: bool = False


class Place(Protocol):
    """Where names are written once; each method raises ``PlaceError``."""

    @property
    def url(self) -> str:
        """The URL without credentials."""

    def put(self, name: str, content: bytes) -> bool:
        """Make *content* durable under *name*; False if the name is taken."""

    def get(self, stored: Stored, limit: int = -1) -> bytes:
        """Return the content, up to *limit* bytes if that is not negative."""

    def list(self, folder: str) -> Iterator[Stored]:
        """Yield the names that begin with *folder*, in order."""

    def find_weakness(self) -> str | None:
        """Return why what is there could be deleted, if that is known."""


def open_place(url: str, endpoint: str | None, region: str | None) -> Place:
    """
    Return the place of *url*; nothing is sent.

    Raises:
        InvalidInputError: It is no such URL, or boto3 is missing.
    """
    parts = urlsplit(url)
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme == "s3" and parts.netloc and is_plain:
        try:
            return S3Place(parts.netloc, parts.path.strip("/"), endpoint, region)
        except ModuleNotFoundError:
            problem = "needs boto3: pip install 'hotwallet[s3]'"
    elif parts.scheme == "file" and parts.path and not parts.netloc and is_plain:
        return FolderPlace(Path(unquote(parts.path)))
    else:
        problem = "must be s3://BUCKET/PREFIX or file:///FOLDER"
    raise InvalidInputError(problem)


class S3Place:
    """The objects of a bucket below *prefix*, which has versions and object lock."""

    def __init__(
        self, bucket: str, prefix: str, endpoint: str | None, region: str | None
    ) -> None:
        """Create it after the fork; its thread alone uses it."""
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        quiet_vendor_loggers("boto3", "botocore", "urllib3")
        self.url: Final = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client: BaseClient = boto3.session.Session(region_name=region).client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                connect_timeout=3,
                read_timeout=10,
                retries={"mode": "standard", "total_max_attempts": 3},
                ignore_configured_endpoint_urls=True,
            ),
        )

    def put(self, name: str, content: bytes) -> bool:
        # A bucket with object lock demands a checksum.
        named = {"Key": self._prefix + name, "Body": content}
        checked = {"ChecksumAlgorithm": "SHA256", "IfNoneMatch": "*"}
        return not self._try("put_object", **named, **checked)[1]

    def get(self, stored: Stored, limit: int = -1) -> bytes:
        version = {} if stored.version is None else {"VersionId": stored.version}
        found, _ = self._try("get_object", Key=self._prefix + stored.name, **version)
        try:
            content: bytes = found["Body"].read(None if limit < 0 else limit)
        except Exception as e:  # noqa: BLE001  botocore's, urllib3's and the system's.
            problem = type(e).__name__
        else:
            return content
        raise PlaceError(f"{stored.name} cannot be read ({problem})")

    def list(self, folder: str) -> Iterator[Stored]:
        # S3 orders the versions of a key by time, the newest first.  A page may end
        # between two of them, so a key is complete when the next one begins.
        start: dict[str, str] = {}
        last: Stored | None = None
        while True:
            page, _ = self._try(
                "list_object_versions", Prefix=self._prefix + folder, **start
            )
            for is_version, each in _entries(page):
                name = each["Key"].removeprefix(self._prefix)
                if last is not None and last.name != name:
                    yield last
                    last = None
                older = None if last is None else last.version
                version = each["VersionId"] if is_version else older
                is_above = last is not None or not is_version
                last = Stored(name, version, is_above, was_deleted=version is None)
            if not page.get("IsTruncated"):
                break
            start = {
                "KeyMarker": page["NextKeyMarker"],
                "VersionIdMarker": page["NextVersionIdMarker"],
            }
        if last is not None:
            yield last

    def find_weakness(self) -> str | None:
        found, code = self._try("get_object_lock_configuration")
        if code and code != "ObjectLockConfigurationNotFoundError":
            return f"whether its objects are locked is unknown ({code})"
        rule = found.get("ObjectLockConfiguration", {}).get("Rule", {})
        mode = rule.get("DefaultRetention", {}).get("Mode")
        if mode == "COMPLIANCE":
            return None
        return f"the default retention of the bucket is {mode or 'missing'}"

    def _try(self, operation: str, **parameters: Any) -> tuple[dict[str, Any], str]:
        """Return the answer, and the code of an error that is an answer."""
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            call = getattr(self._client, operation)
            return call(Bucket=self._bucket, **parameters), ""
        except ClientError as e:
            code = str(e.response.get("Error", {}).get("Code", ""))
            if code in _ANSWERS.get(operation, ()):
                return {}, code
            problem = code
        except (BotoCoreError, ValueError) as e:
            problem = type(e).__name__
        raise PlaceError(f"{operation} failed ({problem})")


_ANSWERS = {
    "put_object": {"PreconditionFailed"},
    "get_object_lock_configuration": {
        "AccessDenied",
        "NotImplemented",
        "ObjectLockConfigurationNotFoundError",
    },
}


def _entries(page: dict[str, Any]) -> list[tuple[bool, dict[str, Any]]]:
    """Return the delete markers and versions of a page, by key, newest first."""
    marks = [(False, each) for each in page.get("DeleteMarkers", ())]
    found = [(True, each) for each in page.get("Versions", ())]
    return sorted([*marks, *found], key=lambda entry: entry[1]["Key"])


class FolderPlace:
    """
    The files of a folder, such as an append-only mount of another host.

    It is as safe as what mounts it: this process could delete the files.
    """

    def __init__(self, folder: Path) -> None:
        self.url: Final = folder.absolute().as_uri()
        self._folder = folder

    def put(self, name: str, content: bytes) -> bool:
        path = self._folder / name
        try:
            if not path.parent.is_dir():
                # Not the folder itself: a mount may be missing.
                path.parent.mkdir(mode=0o755, exist_ok=True)
            write_whole(path, content, os.link, mode=0o644)
        except FileExistsError:
            return False
        except OSError as e:
            problem = type(e).__name__
        else:
            return True
        raise PlaceError(f"{name} cannot be written ({problem})")

    def get(self, stored: Stored, limit: int = -1) -> bytes:
        try:
            with (self._folder / stored.name).open("rb") as file:
                return file.read(limit)
        except OSError as e:
            problem = type(e).__name__
        raise PlaceError(f"{stored.name} cannot be read ({problem})")

    def list(self, folder: str) -> Iterator[Stored]:
        try:
            # A killed process leaves a draft, with a dot before its name.
            names = [each.name for each in (self._folder / folder).iterdir()]
        except FileNotFoundError:
            names = []
        except OSError as e:
            raise PlaceError(f"it cannot be listed ({type(e).__name__})") from None
        for name in sorted(each for each in names if not each.startswith(".")):
            yield Stored(folder + name)

    def find_weakness(self) -> str | None:
        return "nothing here shows whether files of this folder can be deleted"

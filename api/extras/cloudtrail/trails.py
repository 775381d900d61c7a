"""
Reads CloudTrail log files: AWS's own record of what was signed.

A file is a JSON object whose ``Records`` are events, plain or compressed with gzip, as
CloudTrail delivers it.  A ``Sign`` event has the key, the request id and the time to
the second, but never the digest (AWS KMS developer guide, "Sign").
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from signer.errors import InvalidInputError
from signer.redact import key_prefix


_GZIP = b"\x1f\x8b"

_KEY_ARN = re.compile(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/"
    r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
)


@dataclass(frozen=True, slots=True)
class SignEvent:
    """
    One call of ``Sign`` in KMS.

    ``key_id`` is an ARN if CloudTrail knows the key.  ``error_code`` is None if the
    call succeeded.  ``principal`` is the ARN of the caller, ``address`` its IP address.
    """

    event_id: str
    request_id: str
    key_id: str = field(repr=False)
    at: datetime
    error_code: str | None
    principal: str | None = field(repr=False)
    address: str | None

    @property
    def prefix(self) -> str:
        """The start of the key id, as audit records show it."""
        return key_prefix(self.key_id)


@dataclass(frozen=True, slots=True)
class Trail:
    """The times that the files span, and their ``Sign`` events."""

    first: datetime
    last: datetime
    signs: tuple[SignEvent, ...]


def is_key_arn(name: str) -> bool:
    """
    Return whether *name* is a full key ARN, as CloudTrail contains it.

    >>> is_key_arn("1234abcd-12ab-34cd-56ef-1234567890ab")
    False
    """
    return _KEY_ARN.fullmatch(name) is not None


def read_trail(paths: Iterable[Path]) -> Trail:
    """
    Read log files, and all files ``*.json`` and ``*.json.gz`` in directories.

    An event that was delivered twice counts once.  Another file, or files without any
    event, raise ``InvalidInputError``.
    """
    times: set[datetime] = set()
    signs: dict[str, SignEvent] = {}
    for path in _files(paths):
        for event in _events(path):
            at = _time(event, path)
            times.add(at)
            if _is_sign(event):
                sign = _sign(event, at, path)
                signs[sign.event_id] = sign
    if not times:
        raise InvalidInputError(
            "the CloudTrail files contain no event: are the paths right?"
        )
    ordered = sorted(signs.values(), key=lambda sign: (sign.at, sign.event_id))
    return Trail(min(times), max(times), tuple(ordered))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted([*path.rglob("*.json"), *path.rglob("*.json.gz")])
        else:
            yield path


def _events(path: Path) -> list[Any]:
    problem = "is not a CloudTrail log file"
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        events = json.loads(content)["Records"]
        if isinstance(events, list):
            return events
    except OSError as e:
        problem = f"cannot be read ({type(e).__name__})"
    except (ValueError, KeyError, TypeError, EOFError, zlib.error, RecursionError):
        pass
    raise InvalidInputError(f"{path.name} {problem}")


def _is_sign(event: Mapping[str, Any]) -> bool:
    call = event.get("eventSource"), event.get("eventName")
    return call == ("kms.amazonaws.com", "Sign")


def _time(event: object, path: Path) -> datetime:
    try:
        at = datetime.fromisoformat(event["eventTime"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidInputError(f"{path.name} has an event without eventTime")
    return at.astimezone(UTC)


def _sign(event: Mapping[str, Any], at: datetime, path: Path) -> SignEvent:
    event_id, request_id = _text(event.get("eventID")), _text(event.get("requestID"))
    if event_id is None or request_id is None:
        raise InvalidInputError(
            f"{path.name} has a Sign event without eventID or requestID"
        )
    return SignEvent(
        event_id=event_id,
        request_id=request_id,
        key_id=_key_id(event),
        at=at,
        error_code=_text(event.get("errorCode")),
        principal=_text(_object(event, "userIdentity").get("arn")),
        address=_text(event.get("sourceIPAddress")),
    )


def _key_id(event: Mapping[str, Any]) -> str:
    """Return the ARN of the key, or else the key id that the caller used."""
    resources = event.get("resources")
    for resource in resources if isinstance(resources, list) else ():
        if isinstance(resource, Mapping) and (found := _text(resource.get("ARN"))):
            return found
    return _text(_object(event, "requestParameters").get("keyId")) or ""


def _object(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = event.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None

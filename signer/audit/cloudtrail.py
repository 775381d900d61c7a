"""
CloudTrail's log files: what AWS itself says was signed.

A file is a JSON object whose ``Records`` are events, plain or compressed with gzip, as
CloudTrail delivers them.  An event of ``Sign`` has the key, the request's id and the
time to the second; it never has the digest (AWS KMS developer guide, "Sign").
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
    One call of KMS's ``Sign``.

    ``key_id`` is an ARN where CloudTrail knows the key.  ``error_code`` says why there
    was no signature.  ``principal`` is who called, and ``address`` from where.
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
        """What our records show of a key id."""
        return key_prefix(self.key_id)


@dataclass(frozen=True, slots=True)
class Trail:
    """What the files hold: the times that they span, and the calls of ``Sign``."""

    first: datetime
    last: datetime
    signs: tuple[SignEvent, ...]


def is_key_arn(name: str) -> bool:
    """
    Say whether *name* is a key's whole ARN, as CloudTrail tells it.

    >>> is_key_arn("1234abcd-12ab-34cd-56ef-1234567890ab")
    False
    """
    return _KEY_ARN.fullmatch(name) is not None


def read_trail(paths: Iterable[Path]) -> Trail:
    """
    Read log files, and all files ``*.json`` and ``*.json.gz`` below folders.

    An event that was delivered twice counts once.

    Raises:
        InvalidInputError: A file is no log of CloudTrail, or there is no event at all.
    """
    first = last = None
    signs: dict[str, SignEvent] = {}
    for path in _files(paths):
        for event in _events(path):
            at = _time(event, path)
            first = at if first is None else min(first, at)
            last = at if last is None else max(last, at)
            if _is_sign(event):
                sign = _sign(event, at, path)
                signs[sign.event_id] = sign
    if first is None or last is None:
        raise InvalidInputError("there is no event in the CloudTrail files")
    ordered = sorted(signs.values(), key=lambda sign: (sign.at, sign.event_id))
    return Trail(first, last, tuple(ordered))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for found in sorted(path.rglob("*.json*")):
            if found.name.endswith((".json", ".json.gz")):
                yield found


def _events(path: Path) -> list[Any]:
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        events = json.loads(content)["Records"]
    except OSError as e:
        problem = f"cannot be read ({type(e).__name__})"
    except (ValueError, KeyError, TypeError, EOFError, zlib.error, RecursionError):
        problem = "is no log of CloudTrail"
    else:
        if isinstance(events, list):
            return events
        problem = "is no log of CloudTrail"
    raise InvalidInputError(f"{path.name} {problem}")


def _is_sign(event: Mapping[str, Any]) -> bool:
    return (
        event.get("eventSource") == "kms.amazonaws.com"
        and event.get("eventName") == "Sign"
    )


def _time(event: object, path: Path) -> datetime:
    try:
        at = datetime.fromisoformat(event["eventTime"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidInputError(f"{path.name} has an event without its time")
    return at.astimezone(UTC)


def _sign(event: Mapping[str, Any], at: datetime, path: Path) -> SignEvent:
    names = [event.get(name) for name in ("eventID", "requestID")]
    if not all(isinstance(name, str) and name for name in names):
        raise InvalidInputError(f"{path.name} has a Sign event without its ids")
    event_id, request_id = map(str, names)
    return SignEvent(
        event_id=event_id,
        request_id=request_id,
        key_id=_key_id(event),
        at=at,
        error_code=_text(event.get("errorCode")),
        principal=_text(_inside(event, "userIdentity").get("arn")),
        address=_text(event.get("sourceIPAddress")),
    )


def _key_id(event: Mapping[str, Any]) -> str:
    """Return the key's ARN, or else how the caller named the key."""
    resources = event.get("resources")
    for resource in resources if isinstance(resources, list) else ():
        if isinstance(resource, Mapping) and (found := _text(resource.get("ARN"))):
            return found
    return _text(_inside(event, "requestParameters").get("keyId")) or ""


def _inside(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = event.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None

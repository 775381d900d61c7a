"""
Removes secrets and vendors' messages from logs, audit records and error messages.

This is the last line of defence; the first is not to pass secrets on at all.
"""

import logging
import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any


REDACTED = "[redacted]"

_PREFIX = 8

_SECRET_NAMES = re.compile(
    r"\A(.*[_-])?(pin|passw(or)?d|secret|token|authorization|cookie|credentials?"
    r"|(private|secret|access|api)[_-]?key|signature|raw([_-]transaction)?|dsn|jwt"
    r"|bearer)\Z",
    re.IGNORECASE,
)

# Patterns of vendors' messages, URLs and credentials.  They are one expression for
# speed: every text of every log event is searched.
_SECRETS = re.compile(
    r"""
      arn:aws[\w-]*:[^\s"',)]+
    | \bprojects/[^\s"',)]+  # A resource of Google Cloud.
    | \bya29\.[\w.-]+  # An access token of Google's.
    | \b[\w.-]{1,100}@[\w.-]{1,100}\.gserviceaccount\.com\b
    | \b[\w.-]{1,253}\.googleapis\.com\b
    | eyJ[\w-]{6,}\.[\w-]{4,}\.[\w-]*
    | \b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b
    | \b(?i:[a-z])[\w+.-]{0,100}://[^\s"'<>]+
    | \b(?:host(?:addr)?|user|password|dbname|database)=[^\s"'()\[\],]+  # As libpq.
    | \b[\w.-]{1,253}\.amazonaws\.com(?:\.cn)?\b
    | \b(?:af|ap|ca|cn|eu|il|me|mx|sa|us)(?:-gov|-iso\w?)?-[a-z]+-\d\b
    | (?<![\w.])(?<!-[0-9a-f]{4}-[0-9a-f]{4}-)\d{12}(?!\w|\.\d)  # An account, no UUID.
    """,
    re.VERBOSE,
)

# One word or number, such as a hash, an address, a refund id or an amount, can only be
# an access key or an account.  A search for the other patterns takes ten times as long.
# The time of the line is neither, nor is a UUID, such as the id of a request.
_HARMLESS = re.compile(
    r"(?:(?!AKIA|ASIA|AROA|AIDA|\d{12}\Z)\w*(?:\.\d+)?"
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(?:Z|\+00:00)"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z"
)


# The lowest level at which each library may log.  At DEBUG they log requests,
# responses, signed bytes and user names, at INFO endpoints.  The AWS libraries and
# urllib3 also log host names and whole URLs at WARNING.
_VENDOR_LOG_LEVELS: Mapping[str, int] = {
    "alembic": logging.WARNING,
    "asyncio": logging.WARNING,
    "boto3": logging.CRITICAL,
    "botocore": logging.CRITICAL,
    "google": logging.CRITICAL,
    "opentelemetry": logging.CRITICAL,
    "psycopg": logging.WARNING,
    "requests": logging.WARNING,
    "s3transfer": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "urllib3": logging.CRITICAL,
    "web3": logging.WARNING,
}

# Key ids that a user may have put in the wrong place, perhaps mistyped: a UUID, a
# multi-Region id, a CKA_ID.  No address and no refund id begins like one of these.
_KEY_IDS = re.compile(
    r"""
    (?<!\w)(?!0x)(?:
      mrk-[0-9a-z-]{5,}
    | [0-9a-z]{8}(?:-[0-9a-z]{4})+[0-9a-z-]*
    | [0-9a-f]{16,}[0-9a-z]*
    | [0-9a-z]{24,}
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)


_KEY_VERSION = re.compile(r"projects/.*/cryptoKeys/([^/]+)/cryptoKeyVersions/(\d+)")


def key_prefix(key_id: str) -> str:
    """
    Return the first eight characters of a key id and "...".

    The prefix of an ARN is taken after its last slash, because all ARNs begin alike.
    Of a key version of Google Cloud KMS, the version is kept, and its key is cut.

    >>> key_prefix("arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd")
    '1234abcd...'
    >>> key_prefix("projects/p/.../cryptoKeys/refunds/cryptoKeyVersions/3")
    'refund/3...'
    """
    if found := _KEY_VERSION.fullmatch(key_id):
        key, version = found.groups()
        return (
            f"{key[: max(1, _PREFIX - 1 - len(version))]}/{version}"[:_PREFIX] + "..."
        )
    return key_id.rpartition("/")[2][:_PREFIX] + "..."


def sanitize(text: str) -> str:
    """
    Return *text* without ARNs, tokens, URLs, endpoints, regions and account ids.

    >>> sanitize("User: arn:aws:iam::111122223333:role/Pay is not authorized")
    'User: [redacted] is not authorized'
    """
    return text if _HARMLESS.match(text) else _SECRETS.sub(REDACTED, text)


def cut_key_ids(text: str) -> str:
    """
    Return *text* with everything that looks like a key id cut to eight characters.

    Use it only for text that a user has typed.  The log needs KMS's request ids, which
    look the same, and its own messages never contain a key id.

    >>> cut_key_ids("No such command '1234abcd-12ab-34cd-56ef-1234567890ab'.")
    "No such command '1234abcd...'."
    """
    return _KEY_IDS.sub(lambda match: key_prefix(match[0]), text)


def quiet_vendor_loggers(*names: str) -> None:
    """
    Raise the log levels of the libraries in *names*, or of all libraries.

    A library's own level counts even where the root logger is set to DEBUG.
    """
    for name in names or _VENDOR_LOG_LEVELS:
        logging.getLogger(name).setLevel(_VENDOR_LOG_LEVELS[name])


def redact_event(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Redact one log event; the last structlog processor before the renderer."""
    for name, value in event.items():
        event[name] = _redact(name, value)
    return event


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.match(name) is not None


_NUMBERS = (int, float)  # A union would be made at each call.


def _redact(name: str, value: object) -> object:
    if _is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return sanitize(value)
    if value is None or isinstance(value, _NUMBERS):
        return value
    if isinstance(value, Mapping):
        return {(key := str(name)): _redact(key, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(name, item) for item in value]
    # The repr of another type, such as bytes, may contain a secret.
    return f"[{type(value).__name__}]"

"""
The names of key versions of Cloud KMS, and which of them the service may use.

A version's name never refers to another key, unlike the name of its key, which gets new
versions.  The format is that of ``google.cloud.kms.v1.CryptoKeyVersion.name``; key
rings, keys and locations are ``[a-zA-Z0-9_-]{1,63}``
(https://docs.cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys/create).
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase


_PROJECT = r"projects/[a-z0-9][a-z0-9.:-]{1,99}"
_ID = r"[a-zA-Z0-9_-]{1,63}"
_ANY = r"[a-zA-Z0-9_*-]{1,63}"

_NAME = re.compile(
    rf"({_PROJECT}/locations/{_ID}/keyRings/{_ID}/)"
    rf"cryptoKeys/{_ID}/cryptoKeyVersions/[1-9][0-9]{{0,18}}"
)
_PATTERN = re.compile(
    rf"{_PROJECT}/locations/{_ANY}/keyRings/{_ANY}/cryptoKeys/{_ANY}"
    r"/cryptoKeyVersions/[0-9*]{1,19}"
)

FORMAT = (
    "must be projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY/"
    "cryptoKeyVersions/VERSION"
)


def is_version_name(name: str) -> bool:
    """Return whether *name* is the whole name of a key version."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class AllowedVersions:
    """The key versions whose names match at least one of *patterns*."""

    patterns: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        """Return whether the version is allowed."""
        return any(fnmatchcase(name, each) for each in self.patterns)


def parse_patterns(value: str) -> tuple[str, ...]:
    """
    Return the patterns of a comma-separated list.

    Raises:
        ValueError: The list has something else than patterns.
    """
    patterns = tuple(part.strip() for part in value.split(","))
    if not all(map(_PATTERN.fullmatch, patterns)):
        raise ValueError(
            "must be comma-separated names of key versions; all but the project may"
            " have *"
        )
    return patterns


def default_patterns(name: str) -> tuple[str, ...]:
    """Return what is allowed without a list: all versions in the ring of *name*."""
    found = _NAME.fullmatch(name)
    return (f"{found[1]}cryptoKeys/*/cryptoKeyVersions/*",) if found else ()

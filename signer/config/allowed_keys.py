"""
Which keys of a cloud the service may use: patterns such as ``KMS_ALLOWED_KEYS``.

A pattern of AWS KMS is a key ARN in which ``*`` stands for any characters of the region
or of the key id.  Partition and account are literal: a key of another account is never
allowed by mistake.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase


_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]+):(\d{12}):(?:key|alias)/(.+)")
_PATTERN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9*-]+:\d{12}:key/[A-Za-z0-9*-]+")


@dataclass(frozen=True, slots=True)
class AllowedKeys:
    """The keys whose names match at least one of *patterns*."""

    patterns: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return any(fnmatchcase(name, each) for each in self.patterns)

    def may_contain(self, name: str) -> bool:
        """
        Return whether the key that *name* refers to may be allowed.

        The account and the region of an alias's ARN are known before it is resolved.
        Bare key ids and aliases belong to the service's own account and region.
        """
        if ":key/" in name:
            return name in self
        place = name.rpartition(":")[0]
        return not place or any(
            fnmatchcase(place, each.rpartition(":")[0]) for each in self.patterns
        )


def split_patterns(value: str, form: re.Pattern[str], expected: str) -> tuple[str, ...]:
    """
    Return the patterns of a comma-separated list.

    Raises:
        ValueError: One does not have the *form*; the message is *expected*.
    """
    patterns = tuple(part.strip() for part in value.split(","))
    if not all(map(form.fullmatch, patterns)):
        raise ValueError(expected)
    return patterns


def parse_patterns(value: str) -> tuple[str, ...]:
    """Return the patterns of AWS KMS in a comma-separated list, or ``ValueError``."""
    expected = (
        "must be comma-separated key ARNs; only their region and key id may have *"
    )
    return split_patterns(value, _PATTERN, expected)


def names_account(key_name: str) -> bool:
    """Return whether *key_name* is the ARN of a key or alias, which has an account."""
    return _ARN.fullmatch(key_name) is not None


def default_patterns(key_name: str, region: str) -> tuple[str, ...]:
    """
    Return what is allowed without a list: the surroundings of the configured key.

    These are the keys in its account, in its own region and in *region*, and if it is a
    multi-Region key, the account's multi-Region keys in all regions: a failover must
    not wait for a new setting.  The account of a bare id or alias is not known, so that
    keys of every account in *region* are allowed; production does not accept that.
    """
    found = _ARN.fullmatch(key_name)
    partition, home, account, key = (
        found.groups() if found else ("aws*", region, "*", key_name)
    )
    prefix = f"arn:{partition}:kms:"
    regions = dict.fromkeys((home, region))
    patterns = [f"{prefix}{each}:{account}:key/*" for each in regions]
    if key.startswith("mrk-"):
        patterns.append(f"{prefix}*:{account}:key/mrk-*")
    return tuple(patterns)

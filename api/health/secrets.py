"""
The secrets of a deployment, with their ages: what ``secrets.toml`` lists and is set.

A secret in a file is as old as the file.  The age of one in the environment is not
known, and neither is that of a key in a KMS, which the file only names.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from signer.model.key import Key


WALLET_KEY = "wallet-key"
"""The only one that no variable has."""

_MOST_OF_A_NAME = 300

_FILE_SUFFIXES = ("_FILE", "_CREDENTIALS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """
    A secret, and how it lives.

    ``variable`` has it or names its file; ``option`` is a parameter of that variable's
    URL, which names the file.  ``replace`` is the page with the steps, as
    ``docs/reference`` links it, and ``days`` is after how many days.
    """

    name: str
    protects: str
    replace: str
    days: int
    variable: str = ""
    option: str = ""

    @property
    def life(self) -> timedelta:
        """After how long it should be replaced."""
        return timedelta(days=self.days)

    @property
    def is_file(self) -> bool:
        """Whether the variable names a file."""
        return bool(self.option) or self.variable.endswith(_FILE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """*secret* is in a ``file``, ``environment``, ``key ring`` or ``AWS KMS``."""

    secret: Secret
    place: str
    changed_at: datetime | None

    def age(self, now: datetime) -> timedelta | None:
        """Return how old it is, if that is known."""
        return None if self.changed_at is None else now - self.changed_at

    def is_due(self, now: datetime) -> bool:
        """Whether it should have been replaced before *now*."""
        age = self.age(now)
        return age is not None and age > self.secret.life


@cache
def load_secrets() -> tuple[Secret, ...]:
    """Return what ``secrets.toml`` lists."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return tuple(
        Secret(name=name, **fields) for name, fields in tomllib.loads(text).items()
    )


def find_secrets(
    environ: Mapping[str, str], active: Key | None
) -> Iterator[FoundSecret]:
    """Yield the secrets that *environ* sets, and the *active* key of the wallet."""
    for secret in load_secrets():
        if secret.name == WALLET_KEY:
            if active is not None:
                yield FoundSecret(secret, "key ring", active.created_at)
            continue
        value = environ.get(secret.variable, "").strip()
        if secret.option:
            value = parse_qs(urlsplit(value).query).get(secret.option, [""])[-1]
        if not value:
            continue
        if secret.is_file:
            path = Path(value.removeprefix("file:"))
            in_kms = _names_kms_key(path)
            place = "AWS KMS" if in_kms else "file"
            yield FoundSecret(secret, place, None if in_kms else _changed_at(path))
        else:
            yield FoundSecret(secret, "environment", None)


def _names_kms_key(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"arn:" in file.readline(_MOST_OF_A_NAME)
    except OSError:
        return False


def _changed_at(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None  # The guard and the doctor report it.

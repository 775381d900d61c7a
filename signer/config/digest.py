"""
The configuration as evidence: its canonical form, its hash, and what has changed.

The form is RFC 8785 of the JSON document of pydantic models.  Secrets (``SecretStr``)
are masked, so that only their number counts: a hash of a secret can be guessed, and
hosts may use different nodes or API keys under the same rules.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import rfc8785
from pydantic_core import to_jsonable_python

from signer.config.networks import Network
from signer.config.settings import Settings
from signer.config.tenants import Tenant


SHORT_DIGITS = 16
"""How many hex digits of the hash signing records contain."""

_LIMITS = (
    "rate_limit_refused",
    "rate_limit_admin",
    "rate_limit_client",
    "rotation_needs_funds",
)

_DECIDING = ("audit_ship_max_lag", "jwt_algorithm", "key_backend", "require_approvals")
"""Settings that decide who may do what, and how it is proved."""

NO_FILES: Mapping[str, str] = MappingProxyType({})

_LARGEST = 2**53 - 1  # RFC 8785, section 3.2.2.3.

Change = Mapping[str, Any]
"""The value ``before`` and ``after`` a change; absent where there was or is none."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """The rules that a process applies: ``document`` is JSON and has no secrets."""

    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, **parts: object) -> Self:
        """
        Return the configuration of named *parts*: models, or mappings of them.

        Models must not contain sets: their order differs from run to run.
        """
        return cls(_exact(to_jsonable_python(parts)))

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the canonical form, in hex."""
        return hash_document(self.document)

    @property
    def short(self) -> str:
        """The start of ``hash``, as signing records contain it."""
        return self.hash[:SHORT_DIGITS]

    def changes_from(self, before: Mapping[str, Any]) -> Mapping[str, Change]:
        old, new = _leaves(before), _leaves(self.document)
        found: dict[str, dict[str, Any]] = {}
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new or old[name] != new[name]:
                found[name] = {
                    side: values[name]
                    for side, values in (("before", old), ("after", new))
                    if name in values
                }
        return found


def read_configuration(
    settings: Settings,
    networks: Mapping[str, Network],
    tenants: Mapping[str, Tenant],
    policy: Mapping[str, str] = NO_FILES,
    approvers: Mapping[str, Any] = NO_FILES,
) -> Configuration:
    """
    Return the networks, tokens, tenants and limits in force.

    *policy* has the texts of the operator's own rules, by file.  Those of this project
    follow from the rest and from the program's version.  *approvers* is the file of
    people who approve with keys of their own.
    """
    limits = settings.model_dump(include=set(_LIMITS), by_alias=True)
    parts = {"limits": limits, "networks": networks, "tenants": tenants}
    deciding = settings.model_dump(
        include=set(_DECIDING), by_alias=True, exclude_unset=True
    )
    # Without these, the configuration has the hash that it had in earlier versions.
    others = {"policy": policy, "approvers": approvers, "settings": deciding}
    return Configuration.of(
        **parts, **{name: each for name, each in others.items() if each}
    )


def hash_document(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(rfc8785.dumps(dict(document))).hexdigest()


def describes(document: Mapping[str, Any], hash_: str) -> bool:
    return hash_document(document) == hash_


def _exact(value: Any) -> Any:
    """Return *value* with integers that JSON readers would round as strings."""
    if isinstance(value, Mapping):
        return {name: _exact(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_exact(each) for each in value]
    if isinstance(value, int) and abs(value) > _LARGEST:
        return str(value)
    return value


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for name, each in value.items():
        found |= _leaves(each, f"{path}.{name}" if path else str(name))
    return found

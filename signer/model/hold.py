"""
Holds: what an operator or a rule has stopped, until an operator ends it.

A hold of everything, of one network or of one token there, a *stop*, forbids
signatures.  One of a tenant, a *block*, forbids its changes and gives its refunds no
nonces.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from signer.errors import (
    RowNotAuthenticError,
    SigningStoppedError,
    TenantBlockedError,
    TokenStoppedError,
)
from signer.model.audit_record import Operation
from signer.model.refund import COIN, COIN_ADDRESS
from signer.model.sealed_fields import FreeText, NotStored, PrimaryKey, Small, sealed


EVERYTHING = 0
"""The chain id of a stop of everything; no network has it."""

EVERY_CHAIN = -1
"""In place of the chain id of a signature that may be valid on every chain."""

_LARGEST_ID = 2**63 - 1

UNSTOPPABLE = frozenset(
    {Operation.SELF_TEST, Operation.KEY_ROTATION, Operation.KEY_RELOCATION}
)
"""Operations that a stop allows: their signatures authorise nothing.

An administrator must be able to replace a stolen key while everything is stopped."""


class Scope(StrEnum):
    """What a hold applies to: the first word of its name."""

    EVERYTHING = "everything"
    NETWORK = "network"
    TOKEN = "token"  # noqa: S105 - it is not a secret.
    TENANT = "tenant"


STOPS = frozenset({Scope.EVERYTHING, Scope.NETWORK, Scope.TOKEN})
"""The scopes that forbid signatures."""


def name_of_chain(chain_id: int) -> str:
    """Return the name of the stop of *chain_id*, which may be ``EVERYTHING``."""
    if chain_id == EVERYTHING:
        return Scope.EVERYTHING
    return f"{Scope.NETWORK} {chain_id}"


def name_of_token(chain_id: int, address: str) -> str:
    """Return the name of the stop of the token with *address*, in any spelling."""
    return f"{Scope.TOKEN} {chain_id} {address.lower()}"


def name_of_tenant(tenant: str) -> str:
    return f"{Scope.TENANT} {tenant}"


@sealed("hold")
@dataclass(frozen=True)
class Hold:
    """
    The last hold of one *name*: its scope and, after a space, what it applies to.

    That is a chain, a tenant, or a chain and the address of a token in lower case.

    ``requested_by`` is the actor, as audit records name it.  If a rule began the hold,
    ``alert`` is the alert that it raised, and ``evidence`` a JSON document of the facts
    for which it did; both are None if a person did.  ``ended_at`` is when an
    operator ended the hold, None while it is in force.  ``version`` counts the changes:
    each is a compare-and-set on it.  ``is_authentic`` is not stored: it is False if the
    MAC of the stored row is not valid.  No other field of such a row can be trusted.
    """

    name: PrimaryKey[str]
    at: datetime
    reason: FreeText
    requested_by: str
    alert: str | None = None
    evidence: FreeText | None = None
    ended_at: datetime | None = None
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True

    @classmethod
    def of_chain(cls, chain_id: int, at: datetime, reason: str, by: str) -> Self:
        """Return a stop of *chain_id*, which may be ``EVERYTHING``."""
        return cls(name_of_chain(chain_id), at, reason, by)

    @classmethod
    def of_token(
        cls, chain_id: int, address: str, at: datetime, reason: str, by: str
    ) -> Self:
        """Return a stop of one token; its *address* may be ``COIN_ADDRESS``."""
        return cls(name_of_token(chain_id, address), at, reason, by)

    @classmethod
    def of_tenant(cls, tenant: str, at: datetime, reason: str, by: str) -> Self:
        return cls(name_of_tenant(tenant), at, reason, by)

    @property
    def scope(self) -> Scope:
        return Scope(self.name.partition(" ")[0])

    @property
    def subject(self) -> str:
        """The name without the scope; empty for a hold of everything."""
        return self.name.partition(" ")[2]

    @property
    def chain_id(self) -> int:
        """The chain of a stop, or ``EVERYTHING``."""
        return int(self.subject.partition(" ")[0] or EVERYTHING)

    @property
    def token(self) -> str:
        """The address of a held token in lower case; empty for other stops."""
        return self.subject.partition(" ")[2] if self.scope is Scope.TOKEN else ""

    @property
    def tenant(self) -> str:
        return self.subject

    @property
    def in_force(self) -> bool:
        """Whether it holds: another program cannot end it."""
        return self.ended_at is None or not self.is_authentic

    def forbids(self, named: str) -> bool:
        """
        Return whether a stop forbids what *named* names, on its chain.

        *named* has the addresses and the calldata in lower case, as hex, and the word
        ``COIN`` if it moves coin.
        """
        address = self.token
        return (COIN if address == COIN_ADDRESS else address[2:]) in named

    def error(self) -> SigningStoppedError | TenantBlockedError | RowNotAuthenticError:
        """Return the error of what the hold forbids."""
        token = f" --token {self.token}" if self.token else ""
        if not self.is_authentic:
            again, end = (
                ("tenants block", "tenants unblock")
                if self.scope is Scope.TENANT
                else (f"stop --chain-id {self.chain_id}{token}", "resume")
            )
            return RowNotAuthenticError(
                f"another program changed or deleted the row of the hold {self.name!r}"
                f" (`holds`), or MAC_KEY_FILE has other keys: `hotwallet {again}`"
                f" replaces the row, and `hotwallet {end}` ends that"
            )
        if self.scope is Scope.TENANT:
            return TenantBlockedError(
                "an operator blocked the tenant: `hotwallet tenants unblock` ends that"
            )
        since = self.at.isoformat(timespec="seconds")
        if self.token:
            return TokenStoppedError(
                f"the token {self.token} was stopped at {since}: `hotwallet resume`"
                " with --token ends that"
            )
        what = "the network" if self.subject else "all networks"
        return SigningStoppedError(
            f"signing for {what} was stopped at {since}: `hotwallet resume` ends that"
        )


def stopped_by(operation: Operation, chain_id: int | None) -> int | None:
    """
    Return the chain id whose stop forbids a signature of *operation*.

    A stop of everything forbids it as well, and alone if *chain_id* is None.  Each stop
    forbids it if that is ``EVERY_CHAIN``.  Return None if no stop does.
    """
    if operation in UNSTOPPABLE:
        return None
    # No network has a larger id, and the databases cannot store one.
    return EVERYTHING if chain_id is None or chain_id > _LARGEST_ID else chain_id

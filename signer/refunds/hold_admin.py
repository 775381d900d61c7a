"""
What operators and rules hold: signatures, by the kill switch, and tenants.

A hold is one row.  Every reservation, every intent to sign and every commit of signed
bytes checks it in its own transaction.  Each change is audited like a signature: the
intent is durable before anything changes, and the outcome is recorded afterwards.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from eth_utils.address import is_checksum_address

from signer.alerts import Alert, Alerts
from signer.audit.actions import AuditAction
from signer.config.networks import Network
from signer.config.tenants import NO_LIMITS, Tenant, TenantRegistry, is_tenant_name
from signer.errors import ConfigurationError, InvalidInputError, NotFoundError
from signer.keys.admin_audit import AdminAudit, Facts
from signer.model.audit_record import Actor, require_reason
from signer.model.hold import (
    EVERYTHING,
    Hold,
    Scope,
    name_of_chain,
    name_of_tenant,
    name_of_token,
)
from signer.model.refund import COIN, COIN_ADDRESS
from signer.ports.clock import Clock
from signer.ports.control_store import ControlStore
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import RefundFilter


Evidence = Mapping[str, Any]
"""The facts for which a rule begins a hold, as JSON."""

_ADDRESS = re.compile("0x[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class StopResult:
    """Whether a command changed something, and the stops in force after it."""

    changed: bool
    stops: Sequence[Hold]


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """A tenant, and its block; ``block`` is None if it is not blocked."""

    name: str
    tenant: Tenant
    block: Hold | None


@dataclass(eq=False, repr=False)
class Holds:
    """
    Begins and ends holds: of signatures of one network or all, and of one tenant.

    Every method raises ``StoreError`` if the ledger does not answer.  *networks* and
    *registry* read files when they are called: a stop of everything needs neither.
    """

    store: Ledger
    networks: Callable[[], Mapping[str, Network]]
    registry: Callable[[], TenantRegistry]
    admin_audit: AdminAudit
    _: KW_ONLY
    alerts: Alerts
    clock: Clock

    def stop(
        self,
        network: str | None,
        actor: Actor,
        *,
        chain_id: int | None = None,
        token: str | None = None,
        evidence: Evidence | None = None,
    ) -> StopResult:
        """
        Forbid signatures on *network*, or everywhere; a stop in force stays as it is.

        With *token*, it forbids those alone that name this token of the network: its
        symbol, ``COIN``, or the address of any contract.

        A rule gives *evidence*; it has the network.

        *chain_id* is for a stop whose chain no network has: another program inserted
        it, or its network was removed.  A stop that another program changed is
        replaced.

        When this returns, no process on any host signs for a payment any more.  Bytes
        that a device signs at this moment are neither recorded nor sent.

        Raises:
            InvalidInputError: The reason is empty, too long, or not printable; or
                *token* is given without a network.
            NotFoundError: The networks file has no such network or token, and
                *chain_id* is of no network and no stop.
        """
        require_reason(actor.reason)
        changed = self._begin(
            AuditAction.SIGNING_STOP,
            actor,
            lambda: self.name_of(network, chain_id, token),
            evidence,
            **_facts(network, chain_id, token, actor),
        )
        return StopResult(changed, self.stops())

    def resume(
        self,
        network: str | None,
        actor: Actor,
        *,
        chain_id: int | None = None,
        token: str | None = None,
    ) -> StopResult:
        """
        End the stop of *network*, of its *token*, or of everything; as ``stop``.

        Stops of everything, of networks and of tokens are ended separately.

        Raises:
            InvalidInputError, NotFoundError: As ``stop``.
            RowNotAuthenticError: Another program changed the stop: ``stop`` first.
            ApprovalRequiredError: Another administrator must approve it first.
        """
        require_reason(actor.reason)
        changed = self._end(
            AuditAction.SIGNING_RESUME,
            actor,
            lambda: self.name_of(network, chain_id, token),
            **_facts(network, chain_id, token, actor),
        )
        if changed:
            alert = Alert.SIGNING_STOPPED
            self.alerts.resolve(alert, is_known=False, network=network, token=token)
        return StopResult(changed, self.stops())

    def stops(self) -> Sequence[Hold]:
        """Return the stops in force: of everything, of networks, and of tokens."""
        return [stop for stop in self.store.stops() if stop.in_force]

    def names(self) -> Mapping[int, str]:
        """Return the networks' names by chain id; none while the file is unusable."""
        try:
            networks = self.networks()
        except ConfigurationError:
            return {}
        return {network.chain_id: name for name, network in networks.items()}

    def name_of(
        self,
        network: str | None,
        chain_id: int | None = None,
        token: str | None = None,
    ) -> str:
        """Return the name of a stop; *chain_id* and *token* as for ``stop``."""
        stopped = self._chain_id(network, chain_id)
        if token is None:
            return name_of_chain(stopped)
        if stopped == EVERYTHING:
            raise InvalidInputError("needs the token's network", field="token")
        tokens = {} if network is None else self.networks()[network].tokens
        address = COIN_ADDRESS if token == COIN else token
        address = tokens[token].address if token in tokens else address
        # Without a checksum all letters are small: one that is mistyped is not right.
        if not (is_checksum_address(address) or _ADDRESS.fullmatch(address)):
            raise NotFoundError("the network has no such token, and it is no address")
        return name_of_token(stopped, address)

    def _chain_id(self, network: str | None, chain_id: int | None) -> int:
        if chain_id is not None:
            known = {*self.names(), *(stop.chain_id for stop in self.store.stops())}
            if chain_id not in known | {EVERYTHING}:
                raise NotFoundError("no network and no stop has this chain id")
            return chain_id
        if network is None:
            return EVERYTHING
        found = self.networks().get(network)
        if found is None:
            raise NotFoundError("the networks file has no such network")
        return found.chain_id

    def tenants(self) -> Sequence[TenantStatus]:
        """Return the tenants of the file and all that are blocked, by name."""
        listed = self.registry().tenants or {}
        blocks = {block.tenant: block for block in self.store.blocks()}
        return [
            TenantStatus(name, listed.get(name, NO_LIMITS), blocks.get(name))
            for name in sorted({*listed, *blocks})
        ]

    def find_tenant(self, name: str) -> TenantStatus:
        """
        Return the tenant *name*.

        Raises:
            NotFoundError: The tenants file has no such tenant, and it has no refund.
        """
        # Another program may have inserted a block with any name: `unblock` ends it.
        blocks = self.store.blocks()
        block = next((each for each in blocks if each.tenant == name), None)
        if block is None and not self._exists(name):
            raise NotFoundError("there is no such tenant: see `hotwallet tenants list`")
        return TenantStatus(name, self.registry().limits(name), block)

    def block(self, name: str, actor: Actor, evidence: Evidence | None = None) -> bool:
        """
        Refuse changes by the tenant *name*, and assign its refunds no more nonces.

        This takes effect on all hosts before it returns.  Refunds that have a nonce
        already continue.  Return False if the tenant was already blocked.  A block that
        another program changed is replaced.  *evidence* is as for ``stop``.

        Raises:
            NotFoundError: As ``find_tenant``.
        """
        action = AuditAction.TENANT_BLOCK
        return self._begin(
            action, actor, lambda: self._name_of_tenant(name), evidence, tenant=name
        )

    def unblock(self, name: str, actor: Actor) -> bool:
        """
        End the block of *name*; return False if there was none.

        Raises:
            NotFoundError: As ``find_tenant``.
            RowNotAuthenticError: Another program changed the block: ``block`` first.
            ApprovalRequiredError: Another administrator must approve it first.
        """
        action = AuditAction.TENANT_UNBLOCK
        return self._end(action, actor, lambda: self._name_of_tenant(name), tenant=name)

    def _begin(
        self,
        action: AuditAction,
        actor: Actor,
        find_name: Callable[[], str],
        evidence: Evidence | None,
        **facts: Any,
    ) -> bool:
        found = None if evidence is None else json.dumps(evidence, sort_keys=True)
        alert = None if evidence is None else Alert.SIGNING_STOPPED
        with self.admin_audit.attempt(action, actor, **facts):
            at, by = self.clock(), actor.name
            hold = Hold(find_name(), at, actor.reason, by, alert, found)
            facts |= {"contract": hold.token} if hold.token else {}
            changed = self.store.begin_hold(hold)
            self._write(action, actor, changed, facts | _given(evidence=evidence))
        if changed and (evidence or hold.scope is not Scope.TENANT):
            facts |= {"reason": actor.reason, "actor": by}
            facts |= {} if evidence is None else {"network": evidence["network"]}
            self.alerts.sound(Alert.SIGNING_STOPPED, **facts)
        return changed

    def _end(
        self,
        action: AuditAction,
        actor: Actor,
        find_name: Callable[[], str],
        **facts: Any,
    ) -> bool:
        with self.admin_audit.attempt(action, actor, **facts):
            name = find_name()
            held = (*self.store.stops(), *self.store.last_blocks())
            hold = next((each for each in held if each.name == name), None)
            changed = False
            if hold is not None and hold.in_force:
                if not hold.is_authentic:
                    raise hold.error()
                facts |= {"contract": hold.token} if hold.token else {}
                with self.admin_audit.authorize(action, actor, **_state(hold)) as use:
                    at = self.clock()
                    changed = self.store.end_hold(name, at, hold.version, use)
            self._write(action, actor, changed, facts)
        return changed

    def _write(
        self, action: AuditAction, actor: Actor, changed: bool, facts: Facts
    ) -> None:
        changes = self.store.hold_changes()
        self.admin_audit.write(
            action, actor, hold_changes=changes, changed=changed, **facts
        )

    def _name_of_tenant(self, name: str) -> str:
        self.find_tenant(name)
        return name_of_tenant(name)

    def _exists(self, name: str) -> bool:
        if not is_tenant_name(name):
            return False
        listed = self.registry().tenants
        if listed is None or name in listed:
            return True
        # One that was removed from the file may still have queued refunds.
        found = self.store.search_refunds(RefundFilter(tenant=name), limit=1)
        return found.refunds != ()


def require_tenant_unblocked(store: ControlStore, tenant: str) -> None:
    """
    Require that *tenant* is not blocked.

    Raises:
        TenantBlockedError: An operator blocked it.
        RowNotAuthenticError: Another program changed its block, perhaps to end it.
    """
    block = store.find_block(tenant)
    if block is not None:
        raise block.error()


def _state(hold: Hold) -> Facts:
    """Return what an approval of the end of *hold* is about."""
    if hold.scope is Scope.TENANT:
        subject, did = {"tenant": hold.tenant}, "blocked"
    else:
        subject, did = {"chain_id": str(hold.chain_id)}, "stopped"
        subject |= {"token": hold.token} if hold.token else {}
        subject |= {"stop_reason": hold.reason}
    at, by = hold.at.isoformat(), hold.requested_by
    return {**subject, f"{did}_at": at, f"{did}_by": by, "version": hold.version}


def _facts(
    network: str | None, chain_id: int | None, token: str | None, actor: Actor
) -> Facts:
    # As text: JSON has no integers of 64 bits.
    chain = None if chain_id is None else str(chain_id)
    # Not as "token": the audit log redacts what may be a secret by its name.
    given = _given(chain_id=chain, asset=token)
    return {"network": network, "reason": actor.reason, **given}


def _given(**facts: Any) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}

"""
Rotates the wallet to another key, without a moment at which none or two are active.

::

    find      what the given name means now; from here on, what never moves
    view      how the ring stands: is it done, and is it the key that is to be replaced
    begin     the key is a pending row: nobody else rotates meanwhile
    prove     a real signature of the new key, which recovers to it
    look      at what its address holds
    activate  one commit: it is active, the old key draining, and the audit knows

A process may die between any two lines.  Until the last one, the old key serves; after
it, the new one does, on every host.  Whoever asks again for the same key goes on.

The key that is replaced is the one that was seen first, or nobody is: an administrator
who calls a key compromised does not block what a colleague has made of it meanwhile.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from signer.addresses import parse_address
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.errors import (
    ConflictError,
    KeyRotatedError,
    RotationInProgressError,
    SigningError,
    StaleStateError,
    StoreError,
)
from signer.keys.admin_audit import AdminAudit, Facts, failure_code, key_facts
from signer.keys.balances import AddressBalance
from signer.keys.candidate import CandidateTester
from signer.keys.revocation import Revocation
from signer.keys.rotation_options import (
    ALREADY,
    AWAITING_FUNDS,
    UNFUNDED,
    WOULD_AWAIT_FUNDS,
    RotationOptions,
    RotationResult,
    told,
)
from signer.keys.signer import SignerFactory
from signer.model.audit_record import Actor, Operation
from signer.model.key import Key, KeyState, find_active_key, find_key
from signer.ports import Clock, KeyStore
from signer.redact import key_prefix


_OPERATION = Operation.KEY_ROTATION

_LOOKS = 2
"""Who is slower with the same key sees at the second one that it is active."""

_AS_USUAL = RotationOptions()

_LOST_TURN = "somebody else took the rotation up"

_OVERTAKEN = (
    "nothing was changed: another key became the active one meanwhile. See who rotated"
    " (keys list), and ask again if you still mean it"
)

_NONE_BEFORE = (
    "it is the only key that ever served: name the new key, and not the compromised one"
)


@dataclass(frozen=True, slots=True)
class RingView:
    """The ring at one moment, seen from a key that somebody *wanted* to be active."""

    wanted: Key
    ring: Sequence[Key]

    @property
    def active(self) -> Key | None:
        """The key that signs; None before the first one was enrolled."""
        return find_active_key(self.ring)

    @property
    def is_done(self) -> bool:
        """Whether the wanted key is the active one."""
        active = self.active
        return active is not None and active.address == self.wanted.address

    @property
    def replaced(self) -> Key | None:
        """The key that the wanted one takes over from, or took over from."""
        if not self.is_done:
            return self.active
        served = [key for key in self.ring if key.epoch and key != self.active]
        return served[0] if served else None

    def require_possible(self, address: str | None, *, compromised: bool) -> None:
        """
        Make sure that the wanted key may take over, or took over, from *address*.

        None means that it is not said which key is to be replaced.

        Raises:
            ConflictError: It was given up, or the ring has it in another place; it is
                another key's turn; or there is none to call *compromised*.
        """
        self._require_usable()
        if address is not None:
            self._require_replaced(address)
        if compromised and self.is_done and self.replaced is None:
            raise ConflictError(_NONE_BEFORE)

    def _require_usable(self) -> None:
        known = find_key(self.ring, self.wanted.address)
        if known is None:
            return
        if known.state is KeyState.BLOCKED:
            raise ConflictError("the key was given up as compromised")
        if known.key_id != self.wanted.key_id:
            raise ConflictError("the ring has this key in another place: use relocate")

    def _require_replaced(self, address: str) -> None:
        if self.replaced is not None and self.replaced.address == address:
            return
        if self.wanted.address == address:
            raise ConflictError("the new key is the very one that is to be replaced")
        active = "no key" if self.active is None else self.active.address
        raise ConflictError(
            f"nothing was changed: {active} is active, and the new key would not"
            f" replace {address}. See who rotated, and when (keys list); ask again with"
            " the address that you mean, or give up a former key by its address"
            " (keys block)"
        )


class Rotation:
    """Rotates, on behalf of one administrator at a time."""

    def __init__(
        self,
        store: KeyStore,
        signers: SignerFactory,
        *,
        survey: Callable[[str], Sequence[AddressBalance]],
        audit: AuditLog,
        alerts: Alerts,
        clock: Clock,
        needs_funds: bool = False,
    ) -> None:
        """Rotate among the keys of *signers*; *needs_funds* makes funds a must."""
        self._store = store
        self._tester = CandidateTester(signers, alerts, clock)
        self._survey = survey
        self._audit = audit
        self._admin_audit = AdminAudit(audit, _OPERATION, alerts)
        self._blocking = Revocation(store, audit=audit, clock=clock)
        self._clock = clock
        self._needs_funds = needs_funds
        self._log = structlog.get_logger("keys")

    def rotate(
        self, name: str, actor: Actor, terms: RotationOptions = _AS_USUAL
    ) -> RotationResult:
        """
        Make the key that *name* means the active one, by these *terms*; again is fine.

        Raises:
            InvalidInputError: *name* is malformed, or the address of the terms.
            RotationInProgressError: Another rotation is under way.
            ConflictError: The key was given up as compromised, or the ring has it in
                another place; or it would replace another key than was meant.
            NewKeyUnhealthyError: It did not prove itself in time.
            SelfTestPendingError: It was not asked, since it never answered before.
            StoreError: The ledger does not answer; asking again goes on.
        """
        request: Facts = {"key": key_prefix(name), **terms.facts()}
        with self._admin_audit.attempt(
            "rotation-intent",
            actor,
            refused="rotation",
            should_alert=terms.are_alarmed_by,
            **request,
        ):
            rotated = self._rotated(name, actor, terms)
        self._log.info(rotated.status, address=rotated.key.address, actor=actor.name)
        return rotated

    def _rotated(
        self, name: str, actor: Actor, terms: RotationOptions
    ) -> RotationResult:
        meant = terms.active_address
        if meant is not None:
            meant = parse_address(meant, field="activeAddress")
        wanted = self._tester.find(name, actor)
        for _ in range(_LOOKS):
            view = RingView(wanted, self._store.keys())
            view.require_possible(meant, compromised=terms.compromised)
            if terms.rehearse:
                return self._rehearsed(view, actor, terms)
            if view.is_done:
                return self._done(view, actor, terms)
            try:
                pending = self._store.begin_rotation(wanted, self._clock())
            except StaleStateError:
                # Somebody was faster with this key; perhaps not from the one seen here.
                meant = None if view.replaced is None else view.replaced.address
                continue
            # Perhaps relocated since it was seen; not while the pending row is held.
            active = self._row_of(view.replaced)
            return self._taken(pending, active, actor, terms)
        raise RotationInProgressError("the ring changes faster than it is looked at")

    def _rehearsed(
        self, view: RingView, actor: Actor, terms: RotationOptions
    ) -> RotationResult:
        self._tester.self_test(view.wanted, actor, _OPERATION)
        if view.is_done:
            key = view.active or view.wanted
            return RotationResult("would-rotate", key, view.replaced, (), (ALREADY,))
        holdings = self._survey(view.wanted.address)
        waits = self._must_wait(holdings, terms)
        status = WOULD_AWAIT_FUNDS if waits else "would-rotate"
        return told(status, view.wanted, view.replaced, holdings)

    def _done(
        self, view: RingView, actor: Actor, terms: RotationOptions
    ) -> RotationResult:
        """Return what was done before, for whoever did not hear of it."""
        key, previous = view.active or view.wanted, view.replaced
        if previous is None or not terms.compromised:
            return RotationResult("rotated", key, previous, (), (ALREADY,))
        previous, stranded = self._blocking.give_up(previous.address, actor)
        given_up = f"given up is the key that served before it: {previous.address}"
        return RotationResult(
            "rotated", key, previous, (), (ALREADY, given_up), stranded
        )

    def _taken(
        self, pending: Key, active: Key | None, actor: Actor, terms: RotationOptions
    ) -> RotationResult:
        try:
            self._tester.self_test(pending, actor, _OPERATION)
        except SigningError as e:
            self._let_go(pending, failure_code(e))
            raise
        holdings = self._survey(pending.address)
        try:
            if self._must_wait(holdings, terms):
                return self._waiting(pending, active, actor, holdings)
            rotated = self._activated(pending, active, actor, terms)
        except KeyRotatedError as e:
            self._let_go(pending, e.code)
            # Not to be repeated as it is, since it would replace another key then.
            raise ConflictError(_OVERTAKEN) from None
        except StaleStateError:
            raise RotationInProgressError(_LOST_TURN) from None
        answer = told("rotated", rotated, active, holdings)
        if not terms.compromised:
            return answer
        stranded = () if active is None else self._blocking.stranded(active.address)
        unfunded = (UNFUNDED,) if self._lacks_funds(holdings) else ()
        return replace(
            answer, stranded=stranded, warnings=(*answer.warnings, *unfunded)
        )

    def _waiting(
        self,
        pending: Key,
        active: Key | None,
        actor: Actor,
        holdings: Sequence[AddressBalance],
    ) -> RotationResult:
        waiting = self._store.wait_for(pending, AWAITING_FUNDS, self._clock())
        self._admin_audit.write(AWAITING_FUNDS, actor, **key_facts("key", waiting))
        return told(AWAITING_FUNDS, waiting, active, holdings)

    def _activated(
        self, pending: Key, active: Key | None, actor: Actor, terms: RotationOptions
    ) -> Key:
        record = self._audit.event(
            "rotation",
            _OPERATION,
            actor,
            **key_facts("key", pending),
            **key_facts("previous_key", active),
            compromised=terms.compromised,
        )
        activated = self._store.activate(
            pending,
            self._clock(),
            record,
            replacing=active,
            block=terms.compromised,
        )
        self._audit.tell(record)
        return activated

    def _row_of(self, seen: Key | None) -> Key | None:
        return None if seen is None else find_key(self._store.keys(), seen.address)

    def _let_go(self, pending: Key, reason: str) -> None:
        # Why it failed is what must be told; a row that stays is let go in time.
        with suppress(StoreError):
            self._store.reject(pending, reason, self._clock())

    def _must_wait(
        self, holdings: Sequence[AddressBalance], terms: RotationOptions
    ) -> bool:
        # Who signs with a compromised key does not wait for anybody's funds.
        return self._lacks_funds(holdings) and not terms.compromised

    def _lacks_funds(self, holdings: Sequence[AddressBalance]) -> bool:
        return self._needs_funds and not all(each.is_funded for each in holdings)

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
from dataclasses import replace

import structlog

from signer.addresses import parse_address
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.errors import (
    ConflictError,
    HotWalletError,
    KeyRotatedError,
    RotationInProgressError,
    SigningError,
    StaleStateError,
    StoreError,
)
from signer.keys.admin_audit import AdminAudit, Facts, named, reason_of
from signer.keys.balances import AddressBalance
from signer.keys.candidate import CandidateTester
from signer.keys.changeover import (
    ALREADY,
    AWAITING_FUNDS,
    UNFUNDED,
    WOULD_AWAIT_FUNDS,
    RingView,
    RotationOptions,
    RotationResult,
    told,
)
from signer.keys.keyring import OpenSigner
from signer.keys.revocation import Revocation
from signer.model.audit_record import Actor, Operation
from signer.model.key import Key
from signer.ports import Clock, KeyDirectory, KeyStore
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


class Rotation:
    """Rotates, on behalf of one administrator at a time."""

    def __init__(
        self,
        store: KeyStore,
        directory: KeyDirectory,
        open_signer: OpenSigner,
        *,
        survey: Callable[[str], Sequence[AddressBalance]],
        audit: AuditLog,
        alerts: Alerts,
        clock: Clock,
        needs_funds: bool = False,
    ) -> None:
        """Rotate among the keys of *directory*; *needs_funds* makes funds a must."""
        self._store = store
        self._prover = CandidateTester(directory, open_signer, alerts, clock)
        self._survey = survey
        self._audit = audit
        self._minutes = AdminAudit(audit, alerts, _OPERATION)
        self._blocking = Revocation(store, audit=audit, alerts=alerts, clock=clock)
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
            ProofsPendingError: It was not asked, since it never answered before.
            StoreError: The ledger does not answer; asking again goes on.
        """
        request: Facts = {"key": key_prefix(name), **terms.facts()}
        try:
            self._minutes.write("rotation-intent", actor, **request)
            rotated = self._rotated(name, actor, terms)
        except HotWalletError as e:
            is_alarming = terms.are_alarmed_by(e)
            self._minutes.refuse(
                "rotation", e, actor, is_alarming=is_alarming, **request
            )
            raise
        self._log.info(rotated.status, address=rotated.key.address, actor=actor.name)
        return rotated

    def _rotated(
        self, name: str, actor: Actor, terms: RotationOptions
    ) -> RotationResult:
        meant = terms.active_address
        if meant is not None:
            meant = parse_address(meant, field="active_address")
        wanted = self._prover.find(name, actor)
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
        self._prover.prove(view.wanted, actor, _OPERATION)
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
            self._prover.prove(pending, actor, _OPERATION)
        except SigningError as e:
            self._let_go(pending, reason_of(e))
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
        self._minutes.write(AWAITING_FUNDS, actor, **named("key", waiting))
        return told(AWAITING_FUNDS, waiting, active, holdings)

    def _activated(
        self, pending: Key, active: Key | None, actor: Actor, terms: RotationOptions
    ) -> Key:
        record = self._audit.event(
            "rotation",
            _OPERATION,
            actor,
            **named("key", pending),
            **named("previous_key", active),
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
        if seen is None:
            return None
        ring = self._store.keys()
        return next(key for key in ring if key.address == seen.address)

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

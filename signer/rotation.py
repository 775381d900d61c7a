"""
Rotates the wallet to another key, without a moment at which none or two are active.

::

    find      what the given name means now; from here on, what never moves
    begin     the key is a pending row: nobody else rotates meanwhile
    prove     a real signature of the new key, which recovers to it
    look      at what its address holds
    activate  one commit: it is active, the old key draining, and the audit knows

A process may die between any two lines.  Until the last one, the old key serves; after
it, the new one does, on every host.  Whoever asks again for the same key goes on.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.audit.record import Actor, Operation
from signer.errors import (
    ConflictError,
    HotWalletError,
    NewKeyUnhealthyError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
    StoreError,
)
from signer.holdings import Holding
from signer.keyring import OpenSigner
from signer.keys import FORMER, Key, KeyState
from signer.minutes import Facts, Minutes, named
from signer.ports import Clock, KeyDirectory, KeyStore
from signer.proving import Prover
from signer.redact import key_prefix


AWAITING_FUNDS = "awaiting-funds"

_OPERATION = Operation.KEY_ROTATION

_MOST_STRANDED = 1000

_LOST_TURN = "somebody else took the rotation up"

_NEW_ADDRESS = "the address has changed: tell whoever funds the wallet or watches it"


@dataclass(frozen=True, slots=True)
class Rotated:
    """
    What became of a rotation.

    ``status`` is ``rotated``, ``awaiting-funds`` or, for a rehearsal, ``would-rotate``.
    ``stranded`` are open refunds that a key which was given up has signed: they may be
    mined yet, and are for a person to look at.
    """

    status: str
    key: Key
    previous: Key | None
    holdings: Sequence[Holding]
    warnings: Sequence[str]
    stranded: Sequence[str] = ()


class Rotation:
    """Rotates, on behalf of one administrator at a time."""

    def __init__(
        self,
        store: KeyStore,
        directory: KeyDirectory,
        open_signer: OpenSigner,
        *,
        survey: Callable[[str], Sequence[Holding]],
        audit: AuditLog,
        alerts: Alerts,
        clock: Clock,
        needs_funds: bool = False,
    ) -> None:
        """Rotate among the keys of *directory*; *needs_funds* makes funds a must."""
        self._store = store
        self._prover = Prover(directory, open_signer, alerts, clock)
        self._survey = survey
        self._audit = audit
        self._minutes = Minutes(audit, alerts, _OPERATION)
        self._clock = clock
        self._needs_funds = needs_funds
        self._log = structlog.get_logger("keys")

    def rotate(
        self,
        name: str,
        actor: Actor,
        *,
        rehearse: bool = False,
        compromised: bool = False,
    ) -> Rotated:
        """
        Make the key that *name* means the active one; again is fine.

        With *rehearse* the new key proves itself, and nothing is changed.  With
        *compromised* the old key signs nothing at all any more, instead of finishing
        what it began.

        Raises:
            InvalidInputError: *name* is malformed.
            RotationInProgressError: Another rotation is under way.
            ConflictError: The key was given up as compromised, or the ring has it in
                another place.
            NewKeyUnhealthyError: It did not prove itself in time.
            StoreError: The ledger does not answer; asking again goes on.
        """
        request: Facts = {
            "key": key_prefix(name),
            "rehearsal": rehearse,
            "compromised": compromised,
        }
        try:
            self._minutes.write("rotation-intent", actor, **request)
            rotated = self._rotated(
                name, actor, rehearse=rehearse, compromised=compromised
            )
        except HotWalletError as e:
            self._minutes.refuse("rotation", e, actor, **request)
            raise
        self._log.info(rotated.status, address=rotated.key.address, actor=actor.name)
        return rotated

    def _rotated(
        self, name: str, actor: Actor, *, rehearse: bool, compromised: bool
    ) -> Rotated:
        wanted = self._prover.find(name, actor)
        active = self._store.active_key()
        self._require_usable(wanted)
        if active is not None and active.address == wanted.address:
            return self._done(active, actor, compromised=compromised and not rehearse)
        if rehearse:
            self._prover.prove(wanted, actor, _OPERATION)
            return _told("would-rotate", wanted, active, self._survey(wanted.address))
        pending = self._store.begin_rotation(wanted, self._clock())
        try:
            self._prover.prove(pending, actor, _OPERATION)
        except NewKeyUnhealthyError as e:
            # Why it failed is what must be told; a row that stays is let go in time.
            with suppress(StoreError):
                self._store.reject(pending, e.reason, self._clock())
            raise
        holdings = self._survey(pending.address)
        if self._needs_funds and not all(each.is_funded for each in holdings):
            waiting = self._store.wait_for(pending, AWAITING_FUNDS, self._clock())
            self._minutes.write(AWAITING_FUNDS, actor, **named("key", waiting))
            return _told(AWAITING_FUNDS, waiting, active, holdings)
        return self._activated(
            pending, active, actor, holdings=holdings, compromised=compromised
        )

    def _activated(
        self,
        pending: Key,
        active: Key | None,
        actor: Actor,
        *,
        holdings: Sequence[Holding],
        compromised: bool,
    ) -> Rotated:
        record = self._audit.event(
            "rotation",
            _OPERATION,
            actor,
            **named("key", pending),
            **named("previous_key", active),
            compromised=compromised,
        )
        try:
            now_active = self._store.activate(
                pending, self._clock(), record, block=compromised
            )
        except StaleStateError:
            raise RotationInProgressError(_LOST_TURN) from None
        self._audit.tell(record)
        rotated = _told("rotated", now_active, active, holdings)
        if active is None or not compromised:
            return rotated
        stranded = self._store.stranded(active.address, _MOST_STRANDED)
        return replace(rotated, stranded=stranded)

    def _require_usable(self, wanted: Key) -> None:
        ring = self._store.keys()
        known = [key for key in ring if key.address == wanted.address]
        if known and known[0].state is KeyState.BLOCKED:
            raise ConflictError("the key was given up as compromised")
        if known and known[0].key_id != wanted.key_id:
            raise ConflictError("the ring has this key in another place: use relocate")

    def block(self, address: str, actor: Actor) -> tuple[Key, Sequence[str]]:
        """
        Give up the former key with *address* as compromised; again is fine.

        Returns:
            The key, and the ids of open refunds that it has signed.

        Raises:
            NotFoundError: The ring has no such key.
            ConflictError: It is the active one: rotate to another first.
        """
        ring = self._store.keys()
        found = next((key for key in ring if key.address == address), None)
        if found is None:
            raise NotFoundError("the ring has no key with this address")
        if found.state in FORMER:
            record = self._audit.event(
                "key-blocked", _OPERATION, actor, **named("key", found)
            )
            found = self._store.block(found, self._clock(), record)
            self._audit.tell(record)
        if found.state is not KeyState.BLOCKED:
            raise ConflictError(
                f"the key is {found.state}: only a former one is given up"
            )
        return found, self._store.stranded(address, _MOST_STRANDED)

    def _done(self, active: Key, actor: Actor, *, compromised: bool) -> Rotated:
        """Return what was done before, for whoever did not hear of it."""
        ring = self._store.keys()
        served = [key for key in ring if key.epoch and key != active]
        previous = served[0] if served else None
        stranded: Sequence[str] = ()
        if previous is not None and compromised:
            previous, stranded = self.block(previous.address, actor)
        warning = "the key was the active one already"
        return Rotated("rotated", active, previous, (), (warning,), stranded)


def _told(
    status: str, key: Key, previous: Key | None, holdings: Sequence[Holding]
) -> Rotated:
    found = [warning for holding in holdings for warning in holding.warnings()]
    return Rotated(status, key, previous, holdings, (_NEW_ADDRESS, *found))

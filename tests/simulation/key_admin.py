"""Rotates and revokes keys in a schedule, and repeats it after a restore."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from signer.model.audit_record import Record
from signer.model.key import FORMER, Key
from signer.redact import key_prefix
from tests.simulation.chain import SimulatedChain
from tests.simulation.ledger import Ledger
from tests.simulation.observer import ADDRESSES
from tests.simulation.scheduler import EPOCH, Scheduler
from tests.support.keys import key_at


_FORGETS_REVOCATION = 0.5


@dataclass(frozen=True, slots=True)
class _Action:
    """
    *address* becomes the active key, or is revoked.

    If both, the previously active key is revoked.
    """

    address: str
    activates: bool
    revokes: bool


class KeyAdmin:
    """Changes keys in the store's own transactions, and funds the active address."""

    def __init__(
        self,
        scheduler: Scheduler,
        ledger: Ledger,
        chain: SimulatedChain,
        write: Callable[[Record], object],
    ) -> None:
        """*write* writes a record to the log."""
        self._write = write
        self._scheduler = scheduler
        self._ledger = ledger
        self._chain = chain
        self._actions: list[_Action] = []

    @property
    def actions(self) -> int:
        """The number of actions so far."""
        return len(self._actions)

    def act(self, turn: str) -> None:
        """Do one of ``plan.TURNS`` if there is a key for it."""
        ring = self._ledger.store.keys()
        former = next((key.address for key in ring if key.state in FORMER), None)
        known = {key.address for key in ring}
        unused = next((each for each in ADDRESSES if each not in known), None)
        needs_former = turn in {"return", "revoke and return", "block"}
        address = former if needs_former else unused
        if address is None:
            return
        revokes = turn in {"revoke", "revoke and return", "block"}
        action = _Action(address, turn != "block", revokes)
        self._actions.append(action)
        self._do(action)

    def repeat(self, since: int, *, has_log: bool) -> None:
        """
        Repeat the actions that a restored ledger lacks: all but the first *since*.

        No process starts before: its key may be missing in the ring.  Without the log,
        the administrator forgets half of the revocations.
        """
        for action in self._actions[since:]:
            forgets = self._scheduler.random.random() < _FORGETS_REVOCATION
            forgets &= not has_log
            again = replace(action, revokes=action.revokes and not forgets)
            if again.activates or again.revokes:
                self._do(again)

    def fund(self) -> None:
        """Refill the active key's address, which may have been swept."""
        active = self._ledger.store.active_key()
        if active is not None:
            self._chain.fund(active.address)

    def _do(self, action: _Action) -> None:
        store = self._ledger.store
        at = EPOCH + timedelta(seconds=self._scheduler.now)
        name = action.address[:6]
        if not action.activates:
            record = _record("key-revoke-succeeded", at, action.address)
            self._scheduler.log("admin", f"revokes {name}")
            store.block(_find(store.keys(), action.address), at, record)
            self._write(record)
            return
        suffix = ", and revokes the last key" if action.revokes else ""
        self._scheduler.log("admin", f"rotates to {name}{suffix}")
        active = store.active_key()
        record = _record(
            "key-rotate-succeeded",
            at,
            action.address,
            previous_key_address=None if active is None else active.address,
            compromised=action.revokes,
        )
        wanted = key_at(action.address, key_id=ADDRESSES[action.address])
        pending = store.begin_rotation(wanted, at)
        store.activate(pending, at, record, replacing=active, block=action.revokes)
        self._write(record)
        self.fund()


def _record(
    event: str, at: datetime, address: str, **details: str | bool | None
) -> Record:
    key = {"key": key_prefix(ADDRESSES[address]), "key_address": address}
    timestamp = at.isoformat(timespec="microseconds")
    fields = {"event": event, "timestamp": timestamp, "details": {**key, **details}}
    return Record.of(fields, at)


def _find(ring: Sequence[Key], address: str) -> Key:
    return next(key for key in ring if key.address == address)

"""Whoever rotates the keys, gives them up, and does it again behind a restore."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from signer.model.audit_record import Record
from signer.model.key import FORMER, Key
from tests.simulation.chain import SimulatedChain
from tests.simulation.hub import EPOCH, Hub
from tests.simulation.ledger import Ledger
from tests.simulation.witness import ADDRESSES
from tests.support.keys import key_at


_FORGETS = 0.5


@dataclass(frozen=True, slots=True)
class _Deed:
    """
    What was done: the key with *address* became the active one, or was given up.

    With *gives_up* and *activates*, it is the key before that was given up.
    """

    address: str
    activates: bool
    gives_up: bool


class Administrator:
    """
    Takes turns with the keys, each in the store's own transactions.

    He funds the active key's address, which may have been swept before, and may yet be.
    """

    def __init__(self, hub: Hub, ledger: Ledger, chain: SimulatedChain) -> None:
        self._hub = hub
        self._ledger = ledger
        self._chain = chain
        self._deeds: list[_Deed] = []

    @property
    def deeds(self) -> int:
        """How many turns were taken so far."""
        return len(self._deeds)

    def take(self, turn: str) -> None:
        """Take one of ``plan.TURNS``, if the ring lets him."""
        ring = self._ledger.store.keys()
        former = next((key.address for key in ring if key.state in FORMER), None)
        known = {key.address for key in ring}
        unused = next((each for each in ADDRESSES if each not in known), None)
        address = former if turn in {"return", "flee back", "block"} else unused
        if address is None:
            return
        deed = _Deed(address, turn != "block", turn in {"flee", "flee back", "block"})
        self._deeds.append(deed)
        self._do(deed)

    def repeat(self, since: int) -> None:
        """
        Do again what a restored ledger forgot: all turns but the first *since*.

        No process starts before: its key may be none that the ring knows.  That a key
        was given up, nothing tells him, and in half of all cases he does not think of.
        """
        for deed in self._deeds[since:]:
            forgets = self._hub.random.random() < _FORGETS
            again = replace(deed, gives_up=deed.gives_up and not forgets)
            if again.activates or again.gives_up:
                self._do(again)

    def fund(self) -> None:
        """Fill the coffers of the active key's address."""
        active = self._ledger.store.active_key()
        if active is not None:
            self._chain.fund(active.address)

    def _do(self, deed: _Deed) -> None:
        store, at = self._ledger.store, EPOCH + timedelta(seconds=self._hub.now)
        if not deed.activates:
            record = Record.of({"event": "key-revoke-succeeded"}, at)
            self._hub.tell("admin", f"gives {deed.address[:6]} up")
            store.block(_row(store.keys(), deed.address), at, record)
            return
        how = ", and gives the last key up" if deed.gives_up else ""
        self._hub.tell("admin", f"rotates to {deed.address[:6]}{how}")
        record = Record.of(
            {"event": "key-rotate-succeeded", "key_address": deed.address}, at
        )
        wanted = key_at(deed.address, key_id=ADDRESSES[deed.address])
        pending = store.begin_rotation(wanted, at)
        store.activate(
            pending, at, record, replacing=store.active_key(), block=deed.gives_up
        )
        self.fund()


def _row(ring: Sequence[Key], address: str) -> Key:
    return next(key for key in ring if key.address == address)

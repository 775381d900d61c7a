"""
What operators do to nonces by hand, on record: stop them, let them go on, repair.

The intent is durable before anything is changed, and what came of it afterwards, as it
is with signatures: a wallet that stands still, or that went on with somebody else's
transactions accepted, has a name beside it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from signer.audit.record import Actor
from signer.errors import HotWalletError, NotFoundError
from signer.minutes import Facts, Minutes
from signer.ports import Clock, Store
from signer.refunds.repair import Repair, repair
from signer.refunds.watching import Chain


class Controls:
    """Changes what the wallets on *chains* may do, on behalf of one operator."""

    def __init__(
        self,
        store: Store,
        chains: Mapping[str, Chain],
        minutes: Minutes,
        clock: Clock,
    ) -> None:
        self._store = store
        self._chains = chains
        self._minutes = minutes
        self._clock = clock

    def pause(self, network: str | None, actor: Actor) -> Mapping[str, bool]:
        """
        Give out no more nonces on *network*, or anywhere; again is fine.

        Returns:
            By network, whether it was going until now.

        Raises:
            NotFoundError: There is no such network.
            StoreError: The ledger does not answer.
        """

        def stop(chain_id: int) -> bool:
            return self._store.stop(chain_id, self._clock())

        return self._switched("nonce-pause", network, actor, stop)

    def resume(self, network: str | None, actor: Actor) -> Mapping[str, bool]:
        """
        Let *network*, or all, go on after ``pause``; again is fine.

        Returns:
            By network, whether it was paused until now.

        Raises:
            NotFoundError, StoreError: As ``pause``.
        """
        return self._switched("nonce-resume", network, actor, self._store.go_on)

    def repair(self, network: str | None, actor: Actor) -> Sequence[Repair]:
        """
        Let paused wallets go on where they can, with what is foreign accepted.

        Raises:
            HotWalletError: As ``pause``, or a chain does not answer.
        """
        done: list[Repair] = []
        for name in self._names(network):
            with self._on_record("nonce-repair", actor, network=name) as facts:
                found = []
                chains = {name: self._chain(name)}
                for each in repair(self._store, chains, self._clock, apply=True):
                    self._tell_accepted(each, actor)
                    found.append(each)
                facts.update(_summary(found))
            done += found
        return done

    def _switched(
        self,
        event: str,
        network: str | None,
        actor: Actor,
        switch: Callable[[int], bool],
    ) -> Mapping[str, bool]:
        told = {}
        for name in self._names(network):
            with self._on_record(event, actor, network=name) as facts:
                told[name] = switch(self._chain(name).network.chain_id)
                facts["changed"] = told[name]
        return told

    @contextmanager
    def _on_record(self, event: str, actor: Actor, **asked: Any) -> Iterator[Facts]:
        """Write down what is *asked*, and what came of it; yield room for facts."""
        facts: Facts = dict(asked)
        try:
            self._minutes.write(f"{event}-intent", actor, **asked)
            yield facts
            self._minutes.write(event, actor, **facts)
        except HotWalletError as e:
            self._minutes.refuse(event, e, actor, **asked)
            raise

    def _tell_accepted(self, done: Repair, actor: Actor) -> None:
        for sighting in done.accepted:
            self._minutes.write(
                "foreign-accepted",
                actor,
                network=done.network,
                address=sighting.sender,
                nonce=sighting.nonce,
                tx_hash=sighting.tx_hash,
            )

    def _names(self, network: str | None) -> Sequence[str]:
        return list(self._chains) if network is None else [network]

    def _chain(self, name: str) -> Chain:
        if name not in self._chains:
            raise NotFoundError("there is no such network in the networks file")
        return self._chains[name]


def _summary(found: Sequence[Repair]) -> Facts:
    """Return how many wallets go on again, how many do not yet, and why the first."""
    resumed = [each for each in found if each.resumed]
    codes = [each.code for each in found if each.code is not None]
    facts: Facts = {"resumed": len(resumed), "still_paused": len(codes)}
    return facts | ({"outcome": codes[0]} if codes else {})

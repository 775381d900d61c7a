"""
What operators do to nonces by hand, on record: stop them, let them go on, repair.

The intent is durable before anything is changed, and what came of it afterwards, as it
is with signatures: a wallet that stands still, or that went on with somebody else's
transactions accepted, has a name beside it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from signer.addresses import parse_address, shown_address
from signer.audit.log import AuditAction
from signer.chain.chain import Chain
from signer.errors import (
    ConflictError,
    HotWalletError,
    NotFoundError,
    WalletPausedError,
)
from signer.keys.admin_audit import AdminAudit, Facts
from signer.model.audit_record import Actor
from signer.model.key import KeyState
from signer.model.wallet import UnrecordedTransaction
from signer.ports import Clock, Ledger
from signer.refunds.wallet_reconciliation import WalletReconciler
from signer.refunds.wallet_repair import Repair, repair


class NonceAdmin:
    """Changes what the wallets on *chains* may do, on behalf of one operator."""

    def __init__(
        self,
        store: Ledger,
        chains: Mapping[str, Chain],
        minutes: AdminAudit,
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

        return self._switched(AuditAction.NONCE_PAUSE, network, actor, stop)

    def resume(self, network: str | None, actor: Actor) -> Mapping[str, bool]:
        """
        Let *network*, or all, go on after ``pause``; again is fine.

        Returns:
            By network, whether it was paused until now.

        Raises:
            NotFoundError, StoreError: As ``pause``.
        """
        return self._switched(
            AuditAction.NONCE_RESUME, network, actor, self._store.go_on
        )

    def repair(self, network: str | None, actor: Actor) -> Sequence[Repair]:
        """
        Let paused wallets go on where they can, with what is foreign accepted.

        Raises:
            HotWalletError: As ``pause``, or a chain does not answer.
        """
        done: list[Repair] = []
        for name in self._names(network):
            with self._on_record(
                AuditAction.NONCE_REPAIR, actor, network=name
            ) as facts:
                found = []
                chains = {name: self._chain(name)}
                for each in repair(self._store, chains, self._clock, apply=True):
                    self._tell_accepted(name, each.accepted, actor)
                    found.append(each)
                facts.update(_summary(found))
            done += found
        return done

    def abandon(
        self, address: str, network: str | None, actor: Actor
    ) -> Mapping[str, bool]:
        """
        Wait no more for what *address*, whose key was given up, has in the pools.

        What a block has must be known all the same.  Whoever asks for this knows that
        the ledger has not forgotten a payment that may be among the rest.

        Returns:
            By network, whether it was waited for until now.

        Raises:
            InvalidInputError: *address* is malformed.
            NotFoundError: There is no such network.
            ConflictError: No key of the ring with this address was given up.
            WalletPausedError: A block has what a worker has not looked at yet.
            HotWalletError: Ledger or chain do not answer.
        """
        told = {}
        asked = {"address": shown_address(address)}
        for name in self._names(network):
            with self._on_record(
                AuditAction.NONCE_ABANDON, actor, network=name, **asked
            ) as facts:
                chain, given_up = self._chain(name), self._given_up(address)
                accepted = self._abandoned(chain, given_up)
                self._tell_accepted(name, accepted or (), actor)
                told[name] = facts["changed"] = accepted is not None
        return told

    def _given_up(self, address: str) -> str:
        given_up = parse_address(address, field="address")
        ring = self._store.keys()
        blocked = {key.address for key in ring if key.state is KeyState.BLOCKED}
        if given_up not in blocked:
            raise ConflictError("no key with this address was given up (keys list)")
        return given_up

    def _abandoned(
        self, chain: Chain, address: str
    ) -> Sequence[UnrecordedTransaction] | None:
        """Return what is accepted of a paused wallet; None where it is not paused."""
        chain_id = chain.network.chain_id
        wallet = self._store.wallet(chain_id, address)
        if wallet is None or wallet.paused_by is None:
            return None
        mined = chain.client.transaction_count(address)
        foreign = self._store.foreign(chain_id, address)
        watch = WalletReconciler(self._store, self._clock)
        if not watch.conclude(chain, wallet, mined):
            raise WalletPausedError(
                "a block has what is not known: a worker looks, once it is final"
            )
        return foreign

    def _switched(
        self,
        event: AuditAction,
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
    def _on_record(
        self, event: AuditAction, actor: Actor, **asked: Any
    ) -> Iterator[Facts]:
        """Write down what is *asked*, and what came of it; yield room for facts."""
        facts: Facts = dict(asked)
        try:
            self._minutes.request(event, actor, **asked)
            yield facts
            self._minutes.write(event, actor, **facts)
        except HotWalletError as e:
            self._minutes.refuse(event, e, actor, **asked)
            raise

    def _tell_accepted(
        self, network: str, accepted: Sequence[UnrecordedTransaction], actor: Actor
    ) -> None:
        for sighting in accepted:
            self._minutes.write(
                AuditAction.FOREIGN_TRANSACTION_ACCEPT,
                actor,
                network=network,
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

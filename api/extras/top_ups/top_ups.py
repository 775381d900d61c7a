"""
Asks a treasury for tokens when the wallet has few.

The treasury is another service, and this one is its tenant: a top-up is a refund there.
Its policy and limits decide what it pays.  Its list of refunds counts the top-ups, so
nothing is stored here: the idempotency key has the id of the newest top-up, and workers
that ask at the same time, or again after a lost answer, ask for the same one.

What the treasury answers may be false.  Then it is asked too often, once an hour for
each token, or not at all; it pays from its own wallet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from api.container import Container
from api.extras.top_ups import open_treasury
from api.extras.top_ups.treasury import TopUp, Treasury
from signer.alerts import Alert, Alerts
from signer.amounts import format_units
from signer.chain.chain import Chain
from signer.config.networks import Token
from signer.errors import HotWalletError, RotationInProgressError, TreasuryError
from signer.keys.key_proofs import PROOF_VALID_SECONDS
from signer.loops import Wait, repeat
from signer.model.key import Key, KeyState
from signer.model.refund import RefundRequest, Status
from signer.model.worker_row import find_running
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.meter import Meter


LOOK_SECONDS = 60.0
"""How often the balances are read; the treasury is asked only about a low one."""

AGAIN_SECONDS = 10.0
"""How soon a low balance is read again, and how soon a worker looks for its turn."""

STARTING_SECONDS = 1.0
"""How soon a worker looks again if none has completed a pass."""

PAUSE = timedelta(hours=1)
"""How long after a top-up, or after a refusal, the next one is asked for.

It also bounds what a thief of the wallet's key can draw from the treasury."""

WALLET_DELEGATED = "wallet-delegated"
KEY_NOT_PROVED = "key-not-proved"
TOKEN_UNKNOWN = "token-unknown"  # noqa: S105  The treasury does not have the contract.
NODES_LAG = "nodes-lag"

# Another worker asks at this moment, for another amount: the balance changed.
_RACE = "idempotency-mismatch"


@dataclass(frozen=True, slots=True)
class _Asset:
    """A token with thresholds; *below* and *target* are in base units."""

    network: str
    symbol: str
    chain: Chain
    token: Token
    below: int
    target: int

    @property
    def name(self) -> tuple[str, str]:
        return self.network, self.symbol

    @property
    def session_id(self) -> str:
        """The payment session of all its top-ups: files may rename the token."""
        return f"top-up-{self.chain.network.chain_id}-{self.token.address}"

    def holder(self, active: Key) -> str:
        """Return the address that the treasury pays: the vault, or that of *active*."""
        return self.chain.network.token_holder(active.address)

    def balance(self, active: Key) -> int:
        return self.chain.token_balance(self.token.address, self.holder(active))


class _Asked(NamedTuple):
    """The last request for an asset: when, and why it was refused, if it was."""

    at: datetime
    refusal: str | None = None


def worker_loops(container: Container) -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield the loop that asks the treasury, if there is one."""
    treasury = open_treasury(container)
    if treasury is not None:
        top_ups = TopUps(
            container.store,
            container.chains,
            treasury,
            container.alerts,
            name=container.heartbeat.name,
            clock=container.ledger_clock,
            meter=container.meter,
        )
        yield "top-ups", top_ups.run


@dataclass(eq=False, repr=False)
class TopUps:
    """
    Tops up the active key's address, or the vault; raises alerts while that fails.

    It asks while the worker *name* is the one that has run for the longest time.
    """

    ledger: Ledger
    chains: Mapping[str, Chain]
    treasury: Treasury
    alerts: Alerts
    _: KW_ONLY
    name: str
    clock: Clock
    meter: Meter

    def __post_init__(self) -> None:
        self._asked: dict[tuple[str, str], _Asked] = {}
        self._failed: set[tuple[str, str]] = set()  # At the last look.
        self._low: set[tuple[str, str]] = set()  # Also at the last look.
        self._log = structlog.get_logger("top-ups")

    def run(self, wait: Wait) -> None:
        """Look until *wait* returns true; it gets the seconds until the next look."""
        event = "top-up-look-failed"
        repeat(self.look, wait, LOOK_SECONDS, log=self._log, event=event, at_once=True)

    def look(self) -> float:
        """
        Ask for each top-up that is needed, if it is this worker's turn.

        A worker's turn comes after its first pass, which finds a restored ledger.

        Returns:
            The seconds until the next look.
        """
        self._low.clear()
        running = find_running(self.ledger.workers(), self.clock())
        is_ours = bool(running) and running[0].name == self.name
        active = self.ledger.active_key() if is_ours else None
        for asset in self._assets():
            problem = None if active is None else self._try(asset, active)
            self._report(asset, problem, is_ours=is_ours)
        if not running:
            return STARTING_SECONDS
        return AGAIN_SECONDS if self._low or not is_ours else LOOK_SECONDS

    def _assets(self) -> Iterator[_Asset]:
        for network, chain in self.chains.items():
            for symbol, token in chain.network.tokens.items():
                if token.top_up is not None:
                    yield _Asset(network, symbol, chain, token, *token.top_up)

    def _try(self, asset: _Asset, active: Key) -> str | None:
        """Top *asset* up if it is low; return why the treasury does not, or None."""
        try:
            return self._top_up(asset, active)
        except TreasuryError as e:
            return None if e.reason == _RACE else e.reason
        except HotWalletError as e:  # Of the nodes or the ledger: they have alerts.
            self._log.warning("top-up-look-failed", network=asset.network, code=e.code)
            return None

    def _top_up(self, asset: _Asset, active: Key) -> str | None:
        if asset.balance(active) >= asset.below:
            return None
        self._low.add(asset.name)
        obstacle = self._find_obstacle(asset.chain, active)
        if obstacle is not None:
            self._log.info("top-up-held", code=obstacle, **_fields(asset))
            return None
        asked = self._asked.get(asset.name)
        is_pause = asked is not None and self.clock() - asked.at < PAUSE
        if asked is not None and is_pause and asked.refusal is not None:
            return asked.refusal
        newest = self.treasury.newest_top_up(asset.session_id)
        if newest is not None and not newest.status.is_final:
            is_late = self.clock() - newest.created_at >= PAUSE
            return str(newest.status) if is_late else None
        if newest is not None and self.clock() - newest.created_at < PAUSE:
            is_paid = newest.status is Status.CONFIRMED
            return None if is_paid else str(newest.status)
        # What the treasury answers about the newest one may be false.
        return None if is_pause else self._ask(asset, active, newest)

    def _find_obstacle(self, chain: Chain, active: Key) -> str | None:
        """Return the code of a reason not to bring funds to the address of *active*."""
        chain_id, now = chain.network.chain_id, self.clock()
        stop = self.ledger.find_stop(chain_id)
        if stop is not None:
            return stop.error().code
        wallet = self.ledger.wallet(chain_id, active.address)
        if wallet is not None and wallet.is_paused:
            return wallet.error().code
        ring = self.ledger.keys()
        if any(key.state is KeyState.PENDING for key in ring):
            return RotationInProgressError.code  # Another address is active soon.
        proved_at, valid_for = active.proved_at, timedelta(seconds=PROOF_VALID_SECONDS)
        if proved_at is None or now - proved_at > valid_for:
            return KEY_NOT_PROVED
        if chain.client.code(active.address):
            return WALLET_DELEGATED
        return None

    def _ask(self, asset: _Asset, active: Key, newest: TopUp | None) -> str | None:
        chain_id = asset.chain.network.chain_id
        known = self.treasury.find_token(chain_id, asset.token.address)
        if known is None:
            return TOKEN_UNKNOWN
        # The balance must contain the newest top-up, or it would be paid again.
        paid_in = None if newest is None else newest.block_number
        head = asset.chain.client.latest_block().number
        if paid_in is not None and head < paid_in:
            return NODES_LAG
        balance = asset.balance(active)
        if balance >= asset.below:
            return None
        amount = format_units(asset.target - balance, asset.token.decimals)
        key = f"{asset.session_id}-{'first' if newest is None else newest.id}"
        request = RefundRequest(
            payment_session_id=asset.session_id,
            reference=key,
            network=known.network,
            token=known.symbol,
            recipient=asset.holder(active),
            amount=amount,
            reason="automatic top-up",
        )
        try:
            top_up = self.treasury.request(request, key)
        except TreasuryError as e:
            if e.is_refusal and e.reason != _RACE:
                self._asked[asset.name] = _Asked(self.clock(), e.reason)
            raise
        self._asked[asset.name] = _Asked(self.clock())
        self._log.info(
            "top-up-requested", amount=amount, refund_id=top_up.id, **_fields(asset)
        )
        return None

    def _report(self, asset: _Asset, problem: str | None, *, is_ours: bool) -> None:
        """Report a *problem* at the second look in a row: a restart takes a moment."""
        lasts = problem is not None and asset.name in self._failed
        if problem is None:
            self._failed.discard(asset.name)
            self.alerts.resolve(
                Alert.TOP_UP_FAILING, network=asset.network, asset=asset.symbol
            )
        else:
            self._failed.add(asset.name)
        if lasts:
            self.alerts.remind(Alert.TOP_UP_FAILING, problem=problem, **_fields(asset))
        self.meter.topped_up(
            asset.network, asset.symbol, is_failing=lasts if is_ours else None
        )


def _fields(asset: _Asset) -> dict[str, str]:
    return {"network": asset.network, "asset": asset.symbol}

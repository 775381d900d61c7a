"""What is left at a former key's address, and what moves it already."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS, Chain
from signer.chain.fees import quote
from signer.errors import ConflictError
from signer.keys.keyring import KeyRing
from signer.model.refund import COIN, COIN_ADDRESS, SWEEPER, Refund
from signer.ports import KeyStore, Store
from signer.refunds.policy import NOOP_GAS


_FEE_MARGIN = 3
"""How often the fee of the moment may be raised to, before a sweep of coin waits."""

_PAGE = 100


@dataclass(frozen=True, slots=True)
class SweepItem:
    """
    Something to move, or why it cannot be moved yet.

    ``amount`` is in base units of ``decimals``; ``waits_for`` says in our words what
    must happen first, None where nothing must.  ``refund`` is the row that moves it,
    where there is one.
    """

    network: str
    symbol: str
    token_address: str
    decimals: int
    amount: int
    waits_for: str | None = None
    refund: Refund | None = None

    @property
    def whole(self) -> str:
        """The amount in whole units."""
        return format_units(self.amount, self.decimals)


class SweepPlan(NamedTuple):
    """What is to be moved, in this order, and every sweep of the address so far."""

    pieces: Sequence[SweepItem]
    past: Sequence[Refund]


class SweepPlanner:
    """Looks at what former keys have left behind."""

    def __init__(
        self, store: Store, keys: KeyStore, ring: KeyRing, chains: Mapping[str, Chain]
    ) -> None:
        self._store = store
        self._keys = keys
        self._ring = ring
        self._chains = chains

    def of(self, address: str) -> SweepPlan:
        """
        Return what is left at *address*.

        Raises:
            KeyUnusableError: It is not a former key's.
            ConflictError: Refunds with its nonces are still open.
            ChainError: A node does not answer.
        """
        self._ring.former(address)
        past = tuple(self._past(address))
        known = {row.id for row in past if not row.status.is_final}
        for refund_id in self._keys.stranded(address, len(known) + 1):
            if refund_id not in known:
                raise ConflictError(
                    f"refund {refund_id} of the address is open: sweep when it is final"
                )
        pieces = [
            piece
            for name, chain in self._chains.items()
            for piece in self._pieces(name, chain, address, past)
        ]
        return SweepPlan(pieces, past)

    def _past(self, address: str) -> Iterator[Refund]:
        cursor = None
        while True:
            page = self._store.list(
                SWEEPER, payment_session_id=address, limit=_PAGE, cursor=cursor
            )
            yield from page.refunds
            cursor = page.next_cursor
            if cursor is None:
                return

    def _pieces(
        self, name: str, chain: Chain, address: str, past: Iterable[Refund]
    ) -> Iterator[SweepItem]:
        moving = {
            row.token: _moving(row)
            for row in past
            if row.chain_id == chain.network.chain_id and not row.status.is_final
        }
        coin = moving.get(COIN)
        waits_for = "the sweep of the coin" if coin else None
        tokens = []
        for symbol, token in chain.network.tokens.items():
            amount = chain.token_balance(token.address, address)
            if symbol in moving:
                tokens.append(moving[symbol])
            elif amount:
                tokens.append(
                    SweepItem(
                        name, symbol, token.address, token.decimals, amount, waits_for
                    )
                )
        yield from tokens
        if coin is not None:
            yield coin
            return
        max_fee, _ = quote(chain.client.fees(), chain.network)
        amount = chain.client.balance(address) - NOOP_GAS * max_fee * _FEE_MARGIN
        if amount > 0:  # It is worth its own fee.
            waits_for = "its tokens, which need it for gas" if tokens else None
            yield SweepItem(name, COIN, COIN_ADDRESS, COIN_DECIMALS, amount, waits_for)


def _moving(row: Refund) -> SweepItem:
    return SweepItem(
        row.network,
        row.token,
        row.token_address,
        row.decimals,
        row.amount,
        refund=row,
    )

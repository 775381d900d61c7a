"""Plans a sweep: what a former key's address holds, and which sweeps are under way."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS, Chain
from signer.chain.fees import quote_fees
from signer.errors import ConflictError
from signer.keys.keyring import KeyRing
from signer.model.key import FORMER, find_key
from signer.model.payment import PaymentPurpose
from signer.model.refund import COIN, COIN_ADDRESS, OPERATOR, Refund
from signer.ports.key_store import KeyStore
from signer.ports.ledger import Ledger
from signer.refunds.payment_checks import NOOP_GAS


_FEE_MARGIN = 3
"""How many times the current fee a coin sweep leaves, so that its fee can be raised."""

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class SweepItem:
    """
    One asset to move.

    ``amount`` is in base units of ``decimals``.  ``waits_for`` describes what must
    happen first; None means that the asset can be moved now.  ``refund`` is the sweep
    that moves it, if it was accepted.
    """

    network: str
    symbol: str
    token_address: str
    decimals: int
    amount: int
    waits_for: str | None = None
    refund: Refund | None = None

    @property
    def display_amount(self) -> str:
        """The amount in whole units, as a decimal string."""
        return format_units(self.amount, self.decimals)


class SweepPlanner:
    """Reads what the addresses of former keys hold."""

    def __init__(
        self, store: Ledger, keys: KeyStore, ring: KeyRing, chains: Mapping[str, Chain]
    ) -> None:
        self._store = store
        self._keys = keys
        self._ring = ring
        self._chains = chains

    def plan(self, address: str) -> tuple[Sequence[SweepItem], Sequence[Refund]]:
        """
        Return the assets to move, in this order, and all earlier sweeps of *address*.

        Raises:
            ConflictError: *address* is not that of a former key, or refunds with its
                nonces are still open.
            SigningError: As ``KeyRing.former``.
            ChainError: A network's nodes do not answer.
        """
        key = find_key(self._keys.keys(), address)
        if key is None or key.state not in FORMER:
            raise ConflictError(
                "only a draining or retired key's address is swept: see `hotwallet keys"
                " list`"
            )
        self._ring.former(address)
        past_sweeps = tuple(self._past_sweeps(address))
        open_sweeps = {row.id for row in past_sweeps if not row.status.is_final}
        for refund_id in self._keys.stranded(address, len(open_sweeps) + 1):
            if refund_id not in open_sweeps:
                raise ConflictError(
                    f"refund {refund_id} of the address is open: sweep when it is final"
                )
        items = [
            item
            for name, chain in self._chains.items()
            for item in self._items(name, chain, address, past_sweeps)
        ]
        return items, past_sweeps

    def _past_sweeps(self, address: str) -> Iterator[Refund]:
        cursor = None
        while True:
            page = self._store.list(OPERATOR, limit=_PAGE, cursor=cursor)
            for each in page.refunds:
                if (
                    each.purpose is PaymentPurpose.SWEEP
                    and each.bound_sender == address
                ):
                    yield each
            cursor = page.next_cursor
            if cursor is None:
                return

    def _items(
        self, name: str, chain: Chain, address: str, past_sweeps: Iterable[Refund]
    ) -> Iterator[SweepItem]:
        moving = {
            row.token: _build_item(row)
            for row in past_sweeps
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
        max_fee, _ = quote_fees(chain.client.fees(), chain.network)
        amount = chain.client.balance(address) - NOOP_GAS * max_fee * _FEE_MARGIN
        if amount > 0:  # Otherwise the fee would exceed the coin.
            waits_for = "its tokens, which need it for gas" if tokens else None
            yield SweepItem(name, COIN, COIN_ADDRESS, COIN_DECIMALS, amount, waits_for)


def _build_item(row: Refund) -> SweepItem:
    return SweepItem(
        row.network, row.token, row.token_address, row.decimals, row.amount, refund=row
    )

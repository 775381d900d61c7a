"""
The general ledger of a period: double entries from what the chain shows.

The sums are those of ``Account``, so they are compared with the balances.  Only refunds
and fees are divided among tenants, by the used nonces.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from api.extras.books.comparison import NetworkBooks
from api.extras.books.entries import UsedNonce
from signer.model.refund import COIN_ADDRESS


COLUMNS = (
    *("from", "to", "network", "chain_id", "asset", "asset_address", "account"),
    *("wallet", "tenant", "debit", "credit"),
)

NO_TENANT = ""
"""Of what the service pays for itself, such as the fee of a sweep."""

_Share = tuple[str, str, str]
"""Wallet, asset and tenant."""


class GeneralLedger:
    """
    Books the events of one network after the other.

    Each asset of a wallet is an account.  What leaves it is a debit of ``refunds``,
    ``fees``, ``sweeps`` or ``other``, and what it received a credit of ``received``.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._refunds = Counter[_Share]()
        self._fees: list[tuple[str, int, list[str]]] = []  # Wallet, fee, its tenants.

    def add(self, event: object) -> None:
        """Add a used nonce, or the end of a network."""
        if isinstance(event, UsedNonce):
            self._use(event)
        elif isinstance(event, NetworkBooks):
            self.rows += _rows(event, self._refunds, self._divide_fees(event))
            self.discard()

    def discard(self) -> None:
        """Forget a network that could not be compared."""
        self._refunds.clear()
        self._fees.clear()

    def _use(self, used: UsedNonce) -> None:
        refund = used.entry.refund
        is_refund = used.kind == "refund" and refund is not None
        tenant = refund.tenant if is_refund and refund else NO_TENANT
        for each in used.payments if is_refund else ():
            self._refunds[each.payer or used.wallet, each.asset, tenant] += each.amount
        settled = used.settled
        if not used.has_fee:
            self._fees[-1][2].append(tenant)  # The next item of the same batch.
        elif settled is not None:
            is_ours = settled.sender == used.wallet
            self._fees.append((used.wallet, settled.fee if is_ours else 0, [tenant]))

    def _divide_fees(self, books: NetworkBooks) -> Counter[_Share]:
        """Return the fees by tenant; that of a batch in equal parts of its items."""
        found = Counter[_Share]()
        for wallet, fee, tenants in self._fees:
            whole, count = books.assets.fee(fee), len(tenants)
            for position, tenant in enumerate(tenants):
                part = whole * (position + 1) // count - whole * position // count
                found[wallet, COIN_ADDRESS, tenant] += part
        return found


def _rows(
    books: NetworkBooks, refunds: Counter[_Share], fees: Counter[_Share]
) -> Iterator[dict[str, Any]]:
    booked = Counter[_Share]()
    for (wallet, address, tenant), units in refunds.items():
        held, amount = books.assets.account_of(address, units)
        booked[wallet, held, tenant] += amount
    for account in books.accounts:
        asset, received = books.assets[account.asset], account.received or 0
        key = account.wallet, account.asset
        entries = [
            ("wallet", NO_TENANT, received, account.spent),
            *(("refunds", *each, 0) for each in _divide(account.refunds, key, booked)),
            *(("fees", *each, 0) for each in _divide(account.fees, key, fees)),
            ("sweeps", NO_TENANT, account.sweeps, 0),
            ("other", NO_TENANT, account.other, 0),
            ("received", NO_TENANT, 0, received),
        ]
        for name, tenant, debit, credit in entries:
            if debit or credit:
                yield {
                    "network": books.network,
                    "chain_id": books.chain_id,
                    "asset": asset.symbol,
                    "asset_address": asset.address,
                    "account": name,
                    "wallet": account.wallet,
                    "tenant": tenant,
                    "debit": asset.format(debit),
                    "credit": asset.format(credit),
                }


def _divide(
    total: int, account: tuple[str, str], shares: Counter[_Share]
) -> Iterator[tuple[str, int]]:
    """Yield what each tenant has of the *total*, and what no tenant has."""
    rest = total
    for (*key, tenant), amount in sorted(shares.items()):
        if tuple(key) == account and tenant != NO_TENANT:
            rest -= amount
            yield tenant, amount
    yield NO_TENANT, rest

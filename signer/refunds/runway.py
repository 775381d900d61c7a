"""
How long the wallet's balances last: in refunds, and in hours.

A refund is taken to be like the average of the last ones, and an hour like the average
of the last 24.  The coin is counted at the max fee, which nodes require to be
available, so it lasts longer than is said here.
"""

from collections.abc import Mapping, Sequence

from signer.chain.chain import COIN_DECIMALS, Chain
from signer.chain.fees import quote_fees
from signer.model.network_view import Funds
from signer.model.refund import COIN
from signer.ports.refund_reports import GAS, RecentPayment, RefundReports, SpentLately


_LAST_PAYMENTS = 200
_HOURS = 24


def read_max_fee(chain: Chain) -> int:
    """Return the max fee of a first transaction, in wei; raises ``ChainError``."""
    return quote_fees(chain.client.fees(), chain.network)[0]


def read_funds(
    chain: Chain, address: str, statistics: RefundReports, max_fee: int
) -> Sequence[Funds]:
    """
    Return what *address* holds of the coin and of each token, and how long it lasts.

    Raises:
        ChainError: The nodes do not answer.
        StoreError: The ledger does not answer.
    """
    network, client = chain.network, chain.client
    addresses = [token.address for token in network.tokens.values()]
    spent = statistics.spent_lately(network.chain_id, [GAS, *addresses])
    payments = statistics.last_payments(network.chain_id, _LAST_PAYMENTS)
    gas = [payment.gas_limit * max_fee for payment in payments]
    daily_gas = spent.get(GAS, SpentLately()).day * max_fee
    balance, refunds, hours = _runway(client.balance(address), gas, daily_gas)
    if balance == 0:
        refunds = 0  # Also before the first refund, whose cost is unknown.
    found = [Funds(COIN, balance, COIN_DECIMALS, refunds, hours)]
    by_token = _amounts(payments)
    for symbol, token in network.tokens.items():
        balance, refunds, hours = _runway(
            chain.token_balance(token.address, address),
            by_token.get(token.address, ()),
            spent.get(token.address, SpentLately()).day,
        )
        found.append(Funds(symbol, balance, token.decimals, refunds, hours))
    return found


def _amounts(payments: Sequence[RecentPayment]) -> Mapping[str, Sequence[int]]:
    amounts: dict[str, list[int]] = {}
    for payment in payments:
        amounts.setdefault(payment.token_address, []).append(payment.amount)
    return amounts


def _runway(
    balance: int, costs: Sequence[int], spent: int
) -> tuple[int, int | None, float | None]:
    """Return *balance*, and the refunds and hours that it lasts; None if unknown."""
    total = sum(costs)
    refunds = balance * len(costs) // total if total else None
    hours = balance * _HOURS / spent if spent else None
    return balance, refunds, hours

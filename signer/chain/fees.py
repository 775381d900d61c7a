"""
Fees of a refund's transactions, within the network's caps.

Fees are a pair: max fee and priority fee per gas, in wei (EIP-1559).  On a chain
without EIP-1559 both are the gas price, so that one rule raises both kinds.
"""

from signer.config.networks import GWEI, Network
from signer.crypto.transactions import MAX_GAS
from signer.ports.chain import Fees


def quote_fees(fees: Fees, network: Network) -> tuple[int, int]:
    """
    Return max fee and priority fee per gas of a first transaction.

    The default max fee covers twice the base fee, which keeps the transaction valid
    through six full blocks in a row (each raises the base fee by at most 1/8).  At the
    network's cap, the transaction waits until the chain is cheaper.
    """
    cap = _cap(network)
    if fees.base_fee is None:
        price = min(fees.priority_fee, cap)
        return price, price
    priority_cap = network.max_priority_fee_per_gas_gwei * GWEI
    priority = min(fees.priority_fee, priority_cap, cap)
    return min(network.base_fee_multiple * fees.base_fee + priority, cap), priority


def bump_fees(
    old_max: int, old_priority: int, quoted: tuple[int, int], network: Network
) -> tuple[int, int] | None:
    """
    Return the fees that replace a transaction with *old_max* and *old_priority*.

    Nodes replace a pending transaction only if both fees rise: geth requires 10 %,
    other nodes 12.5 %, so each rises by an eighth.  Neither is lower than *quoted*, the
    current ``quote_fees``.  The priority fee may exceed its own cap, which no node
    enforces; the max fee, and so the price paid, never exceeds the network's.

    Returns:
        None if the max fee would have to exceed the cap.
    """
    priority = max(_raise_by_eighth(old_priority), quoted[1])
    max_fee = max(_raise_by_eighth(old_max), quoted[0], priority)
    return (max_fee, priority) if max_fee <= _cap(network) else None


def add_gas_margin(estimate: int) -> int:
    """
    Return the gas limit for a transfer: a quarter more than the *estimate*.

    The state may change before the transaction is mined, and a transfer to an address
    that held nothing costs more.  Never more than a transaction may have (EIP-7825).
    """
    return min(estimate + estimate // 4, MAX_GAS)


def format_gwei(wei: int) -> str:
    """
    Return *wei* in gwei, as a decimal string.

    >>> format_gwei(2_100_000_000), format_gwei(7)
    ('2.1', '0.000000007')
    """
    whole, rest = divmod(wei, GWEI)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def _cap(network: Network) -> int:
    return network.max_fee_per_gas_gwei * GWEI


def _raise_by_eighth(fee: int) -> int:
    # Rounded up, and at least 1 wei: an equal priority fee replaces nothing.
    return fee + max(1, -(-fee // 8))

"""
What a refund offers for gas, within the network's limits.

Everywhere a pair: max fee and priority fee per gas, in wei (EIP-1559).  On a chain
without EIP-1559 both are the gas price, which is what such a transaction amounts to
where there is a base fee, too; so one rule raises both kinds.
"""

from signer.config.networks import Network
from signer.crypto.transactions import MAX_GAS
from signer.ports import Fees


GWEI = 10**9


def quote(fees: Fees, network: Network) -> tuple[int, int]:
    """
    Return max fee and priority fee per gas of a first offer.

    Twice the base fee, as is the default, keeps the transaction valid through six
    full blocks in a row (each raises it by at most 1/8).  Above the network's cap it
    waits until the chain is cheaper.
    """
    cap = _cap(network)
    if fees.base_fee is None:
        price = min(fees.priority_fee, cap)
        return price, price
    priority_cap = network.max_priority_fee_per_gas_gwei * GWEI
    priority = min(fees.priority_fee, priority_cap, cap)
    return min(network.base_fee_multiple * fees.base_fee + priority, cap), priority


def raised(
    old_max: int, old_priority: int, quoted: tuple[int, int], network: Network
) -> tuple[int, int] | None:
    """
    Return what replaces an offer of *old_max* and *old_priority*, or None.

    Nodes replace a waiting transaction by one that pays more in both: geth wants a
    tenth, others an eighth, so an eighth it is.  Neither is less than *quoted*, what
    ``quote`` says now.  The tip may pass its own cap, which no node waits for; the
    max fee, and so the whole price, never passes its.  None: it would have to.
    """
    priority = max(_eighth_more(old_priority), quoted[1])
    max_fee = max(_eighth_more(old_max), quoted[0], priority)
    return (max_fee, priority) if max_fee <= _cap(network) else None


def gas_limit(estimate: int) -> int:
    """
    Return what is allowed to be burnt: a quarter more than the *estimate*.

    The state may change until the transaction is mined, and a transfer to an
    address that held nothing yet costs more than one to an old holder.  Never
    more than a transaction may ask for, or the refund could not be signed.
    """
    return min(estimate + estimate // 4, MAX_GAS)


def _cap(network: Network) -> int:
    return network.max_fee_per_gas_gwei * GWEI


def _eighth_more(fee: int) -> int:
    # Rounded up, and even nothing becomes more: an equal tip replaces nothing.
    return fee + max(1, -(-fee // 8))

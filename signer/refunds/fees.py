"""What a refund offers for gas (EIP-1559), within the network's limits."""

from signer.networks import Network
from signer.ports import Fees
from signer.transactions import MAX_GAS


GWEI = 10**9


def quote(fees: Fees, network: Network) -> tuple[int, int]:
    """
    Return max fee and priority fee per gas, in wei.

    Twice the base fee keeps the transaction valid through six full blocks in a
    row (each raises it by at most 1/8).  Above the network's cap it waits until
    the chain is cheaper.
    """
    cap = network.max_fee_per_gas_gwei * GWEI
    priority_cap = network.max_priority_fee_per_gas_gwei * GWEI
    priority = min(fees.priority_fee, priority_cap, cap)
    return min(2 * fees.base_fee + priority, cap), priority


def gas_limit(estimate: int) -> int:
    """
    Return what is allowed to be burnt: a quarter more than the *estimate*.

    The state may change until the transaction is mined, and a transfer to an
    address that held nothing yet costs more than one to an old holder.  Never
    more than a transaction may ask for, or the refund could not be signed.
    """
    return min(estimate + estimate // 4, MAX_GAS)

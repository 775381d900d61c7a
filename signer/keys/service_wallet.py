"""Whether a service pays refunds from an address, whose nonces are then reserved."""

from signer.model.key import KeyState
from signer.policy.attributes import MAX_LONG
from signer.ports.ledger import Ledger


_PAYING = frozenset({KeyState.ACTIVE, KeyState.PENDING})
"""States in which the service opens wallets of the key on further chains."""


def is_service_wallet(ledger: Ledger, address: str, chain_id: int) -> bool:
    """
    Return whether the service of *ledger* pays, or will pay, from *address*.

    A chain id of 0 means every chain.  The active key counts on each chain: the service
    opens its wallet with the first refund of a network, and pauses it at once if the
    address has a nonce by then.  A former key counts on the chains where it paid.

    Raises:
        StoreError: The ledger cannot be read.
    """
    ring = ledger.keys()
    if any(key.address == address and key.state in _PAYING for key in ring):
        return True
    if chain_id == 0:
        return any(wallet.sender == address for wallet in ledger.wallets())
    # No network can have a larger id, and the databases cannot store one.
    return chain_id <= MAX_LONG and ledger.wallet(chain_id, address) is not None

"""
Bounds how many transactions of a wallet have no receipt.

Nodes keep only some transactions of one account in a full pool, and drop the others.
So a refund takes a nonce when the wallet has a place for it, and can be cancelled until
then.  ``RefundStore.reserve_all`` counts in the transaction that assigns the nonces;
here, a worker learns how many refunds it should claim.
"""

from collections.abc import Iterable

from signer.config.networks import Network
from signer.ports.ledger import Ledger
from signer.ports.refund_store import ANY_PLACES, Places


def find_places(store: Ledger, networks: Iterable[Network], sender: str) -> Places:
    """Return how many refunds *sender* can pay now; raises ``StoreError``."""
    networks = tuple(networks)
    if not any(each.window for each in networks):
        return ANY_PLACES
    used = store.count_in_flight(sender)
    left = {
        each.chain_id: max(0, each.window - used.get(each.chain_id, 0)) * each.per_batch
        for each in networks
        if each.window is not None
    }
    is_bounded = len(left) == len(networks)
    return Places(
        sum(left.values()) if is_bounded else None,
        frozenset(chain_id for chain_id, places in left.items() if not places),
    )

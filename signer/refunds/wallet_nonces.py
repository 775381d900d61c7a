"""The nonces of a wallet: which are open, and which no refund has."""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.model.wallet import Wallet
from signer.ports.ledger import Ledger


MOST_OPEN = 500
"""How many open nonces of a wallet are read, at most."""

MOST_GAPS = 20
"""How many missing nonces of a wallet are read, at most."""


@dataclass(frozen=True, slots=True)
class WalletNonces:
    """
    Nonces below the next one, lowest first.

    ``open`` are those of transactions that are not final, at most ``MOST_OPEN``.
    ``gaps`` are those that none has, and for which later ones wait, at most
    ``MOST_GAPS``.
    """

    open: Sequence[int]
    gaps: Sequence[int]


def read_nonces(
    ledger: Ledger, wallet: Wallet, chain_nonce: int | None
) -> WalletNonces:
    """
    Return the nonces of *wallet*; *chain_nonce* is the next one on the chain, if known.

    A nonce that the chain has not used is open, or missing.  To read all nonces of a
    wallet takes a second if it has a million, so only a suspicion is followed.
    """
    where, end = (wallet.chain_id, wallet.sender), wallet.next_nonce
    rows = ledger.open_below(*where, end, MOST_OPEN)
    found = [each.nonce for each in rows]
    if len(found) == MOST_OPEN:
        end = max(found)
    first = min(found, default=end) if chain_nonce is None else chain_nonce
    first = max(first, wallet.first_nonce)
    expected = max(0, end - first)
    if len([each for each in found if first <= each < end]) == expected:
        return WalletNonces(found, ())
    return WalletNonces(found, ledger.unknown_nonces(*where, end, MOST_GAPS))

"""What an account asks of a service's ledger."""

from collections.abc import Sequence
from typing import Protocol

from signer.model.key import Key
from signer.model.wallet import Wallet
from signer.ports.audit_journal import Journal


class AccountLedger(Journal, Protocol):
    """
    A part of the stores: the audit records, the key ring and the wallets.

    The methods are those of ``KeyStore`` and ``WalletStore``.
    """

    def keys(self) -> Sequence[Key]:
        """Return every key of the ring."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, or None if it was never opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every opened wallet."""

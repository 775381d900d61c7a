"""The ledger by the name that ``signer.account`` still has for it."""

from signer.ports.ledger import Ledger as AccountLedger


__all__ = ["AccountLedger"]

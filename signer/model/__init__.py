"""
Values that packages share: keys, refunds, wallets, limits and audit records.

It imports ``crypto`` and ``signer.errors``; it has no behaviour that needs a port.
"""

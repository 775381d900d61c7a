"""Decides.  Knows keys, signatures, transactions and refunds, and does no I/O."""

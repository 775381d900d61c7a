"""
The books: compares what the ledger records as paid with what the chain shows.

It changes nothing.  It imports ``chain``, ``ports``, ``model`` and ``config``.
"""

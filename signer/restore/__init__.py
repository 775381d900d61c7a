"""
What a ledger that was restored from a backup has lost, and how it gets that back.

It may import the packages of ``signer`` below it.
"""

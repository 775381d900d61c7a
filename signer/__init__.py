"""
Decides: keys, signatures, transactions, refunds, audit and start-up checks.

It may read local files, and it imports no network, database or device library.
"""

"""
JSON-RPC 2.0 at ``/rpc``, as web3.py, ethers, viem and cast speak it.

It imports what ``api.http`` may import.  ``signer.signing`` and ``signer.refunds``
decide what a method does.
"""

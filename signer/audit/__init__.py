"""
The audit log: records, hash chain, checkpoints, export and verification.

It may import ``signer.model`` and ``signer.ports``, but no backend and no database.
"""

"""
Pure cryptography and encoding: secp256k1, DER, transactions and messages.

It imports ``signer.errors`` and nothing else of the project.
"""

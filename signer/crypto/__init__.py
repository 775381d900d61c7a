"""
Pure cryptography and encoding: secp256k1, DER, transactions and messages.

It imports ``errors``, ``addresses`` and the JSON modules of the project.
"""

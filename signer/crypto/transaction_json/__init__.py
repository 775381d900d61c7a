"""
Transactions in the JSON form that Ethereum tools use: JSON-RPC's and eth-account's.

Each field is used or refused: a tool that means more than what is signed gets no
signature.
"""

from signer.crypto.transaction_json.parser import parse_sender, parse_transaction


__all__ = ["parse_sender", "parse_transaction"]

"""The chain client over JSON-RPC: ``JSONRPCChain``, with web3.py."""

from backends.json_rpc.client import JSONRPCChain


__all__ = ["JSONRPCChain"]

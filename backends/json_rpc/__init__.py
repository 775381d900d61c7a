"""The chain, as JSON-RPC nodes tell it: ``JSONRPCChain``, over web3.py."""

from backends.json_rpc.client import JSONRPCChain


__all__ = ["JSONRPCChain"]

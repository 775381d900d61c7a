"""The chain client over JSON-RPC: ``JSONRPCChain``."""

from backends.json_rpc.client import JSONRPCChain


__all__ = ["JSONRPCChain"]

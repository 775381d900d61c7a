"""Forwards the reads of clients to the nodes of one network."""

from collections.abc import Sequence
from typing import Any

from backends.json_rpc.client import JSONRPCChain


class JSONRPCProxy(JSONRPCChain):
    """
    A ``NodeProxy`` (``signer/ports/node_proxy.py``) over JSON-RPC.

    It has connections and reputations of its own, so that what a client asks cannot
    make the service distrust a node.  One node answers, without a quorum.
    """

    # What a client may ask for at once (``api/http/json_rpc/reads.py``).
    max_bytes = 4 * 1024 * 1024

    def forward(self, method: str, params: Sequence[Any]) -> Any:
        asked = list(params)
        return next(
            iter(self._get_pool().each(lambda node: node.forward(method, asked)))
        )

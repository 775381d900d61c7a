"""The port through which a client's own reads reach the nodes of one network."""

from collections.abc import Sequence
from typing import Any, Protocol


class NodeProxy(Protocol):
    """Forwards JSON-RPC requests; nothing that it returns decides about a payment."""

    def forward(self, method: str, params: Sequence[Any]) -> Any:
        """
        Return the result of *method*, as JSON, from the first node that answers.

        Raises:
            RevertedCallError: The contract reverts; it has the contract's data.
            InvalidInputError: The node refuses the parameters.
            ResultTooLargeError: The result is too large.
            ChainError: No node answered.
        """

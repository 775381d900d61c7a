"""Finds the transaction that consumed a nonce in the past states of one node."""

import time
from bisect import bisect_left
from collections.abc import Callable

from backends.json_rpc import requests
from backends.json_rpc.error_mapping import CannotAnswerError
from backends.json_rpc.node import Node
from signer.errors import ChainUnavailableError


IsConsumed = Callable[[int], bool]
"""Returns whether the nonce is consumed in the state after the block at this height."""


def find_hash(node: Node, sender: str, nonce: int, timeout: float) -> str | None:
    """
    Return the hash of the canonical transaction of *sender* with *nonce*.

    None means that the nonce is not consumed, or that the node has pruned that state.
    The search makes at most 3 + 2 log2(height) requests within *timeout* seconds.

    Raises:
        ChainUnavailableError: The node did not respond, or the search took too long.
    """
    deadline = time.monotonic() + timeout

    def is_consumed(height: int) -> bool:
        if time.monotonic() > deadline:
            raise ChainUnavailableError("the search for a transaction took too long")
        try:
            return requests.transaction_count_at(node, sender, height) > nonce
        except CannotAnswerError:
            # The state is pruned.  With "not consumed", the search ends at the oldest
            # state that the node keeps, and looks through that block.
            return False

    head = requests.latest_block(node).number
    if not is_consumed(head):
        return None
    height = find_first(is_consumed, head)
    return requests.hash_in_block(node, height, sender, nonce)


def find_first(is_consumed: IsConsumed, head: int) -> int:
    """
    Return the lowest height at which *is_consumed* holds, as it does at *head*.

    The steps back from the head double, because nodes keep recent states.

    >>> find_first(lambda height: height >= 90, 100)
    90
    """
    high, step = head, 1
    while high > 0 and is_consumed(low := max(head - step, 0)):
        high, step = low, step * 2
    if high == 0:
        return 0
    heights = range(low + 1, high)
    return low + 1 + bisect_left(heights, True, key=is_consumed)

"""Which transaction consumed a nonce?  A search through one node's past states."""

import time
from collections.abc import Callable

from web3 import Web3

from backends.json_rpc import requests as questions
from backends.json_rpc.error_mapping import CannotAnswerError
from signer.errors import ChainUnavailableError


Consumed = Callable[[int], bool]
"""Says whether the nonce was consumed behind the block at this height."""


def find_hash(node: Web3, sender: str, nonce: int, patience: float) -> str | None:
    """
    Return the hash of the canonical transaction of *sender* with *nonce*.

    None when the nonce is not consumed, or longer ago than the node remembers.  At
    most 3 + 2 log2(height) requests are made, for *patience* seconds.

    Raises:
        ChainUnavailableError: The node fell silent, or the search took too long.
    """
    deadline = time.monotonic() + patience

    def consumed(height: int) -> bool:
        if time.monotonic() > deadline:
            raise ChainUnavailableError("the search for a transaction took too long")
        try:
            return questions.past_count(node, sender, height) > nonce
        except CannotAnswerError:
            # It keeps no state so old.  As if not consumed: the search then ends at
            # the oldest state that it keeps, and looks through that block.
            return False

    head = questions.latest_block(node).number
    if not consumed(head):
        return None
    return questions.hash_in_block(node, first(consumed, head), sender, nonce)


def first(consumed: Consumed, head: int) -> int:
    """
    Return the lowest height at which *consumed* holds, as it does at *head*.

    Steps back from the head double, since recent states are what nodes keep.

    >>> first(lambda height: height >= 90, 100)
    90
    """
    high, step = head, 1
    while high > 0 and consumed(low := max(head - step, 0)):
        high, step = low, step * 2
    if high == 0:
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if consumed(middle):
            high = middle
        else:
            low = middle
    return high

"""The chain client: several nodes of one network behind one port."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

from pydantic import SecretStr

from backends.json_rpc import quorum_rules as votes
from backends.json_rpc import requests as questions
from backends.json_rpc.node import connect
from backends.json_rpc.node_pool import NodePool
from backends.json_rpc.node_status import view
from backends.json_rpc.search import find_hash
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import ChainUnavailableError, ConfigurationError, Refusal
from signer.ports import Block, Call, Fees, MinedTransaction, NodeView, Receipt


# A search asks many questions in a row.
_SEARCH_TIMEOUTS = 4


class JSONRPCChain:
    """
    A ``ChainClient`` (``signer/ports/chain.py``) over web3.py.

    What decides about money (receipts, nonces, blocks) is asked of all nodes at once,
    and is a fact by the rules of ``backends/json_rpc/quorum_rules.py``.  The rest is
    asked of one node after the other.  A transaction goes to every node; one node that
    accepts it is enough.  ``docs/reference/networks.md`` has the table of failures.

    Nothing is connected before the first call, and a process that was forked off
    connects anew, so that no two processes speak through one socket.

    Args:
        urls: http or https URLs of nodes of one network, the preferred one first.
            They are secrets, since providers put the API key there.
        timeout: Seconds for each exchange with each node.
        chain_id: What every node must say (``eth_chainId``) before its word counts.

    Raises:
        ConfigurationError: ``networks-misconfigured``: not an http or https URL.
    """

    def __init__(
        self,
        urls: Sequence[SecretStr | str],
        timeout: float,
        chain_id: int | None = None,
    ) -> None:
        self._urls = tuple(_checked(url, place) for place, url in enumerate(urls, 1))
        if not self._urls:
            raise ConfigurationError(
                Refusal("networks-misconfigured", "a network needs an RPC URL")
            )
        self._timeout = timeout
        self._chain_id = chain_id
        self._connected: tuple[int, NodePool | None] = (0, None)

    def chain_id(self) -> int:
        """
        Return the id that the nodes believe in, whatever was expected of them.

        Raises:
            ChainError: They are of different chains, and there is no majority.
            ChainUnavailableError: No node answered.
        """
        return self._panel().chain_id()

    def has_code(self, address: str) -> bool:
        """Say whether a contract lives at *address*."""
        return self._panel().first(lambda node: questions.has_code(node, address))

    def balance(self, address: str) -> int:
        """Return the balance of *address* in wei."""
        return self._panel().first(lambda node: questions.balance(node, address))

    def call(self, call: Call) -> bytes:
        """
        Run *call* on the latest block and return its answer.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """
        return self._panel().first(lambda node: questions.call(node, call))

    def estimate_gas(self, call: Call) -> int:
        """
        Return the gas that *call* would use.

        Raises:
            ExecutionRevertedError: With the contract's decoded reason.
        """
        return self._panel().first(lambda node: questions.estimate_gas(node, call))

    def transaction_count(self, address: str, block: int | None = None) -> int:
        """
        Return the next nonce of *address* behind the block at height *block*.

        None means the latest block, and then what enough nodes have reached counts.

        Raises:
            ChainUnavailableError: Too few nodes know it, or they do not agree.
        """

        if block is None:
            return self._panel().decide(
                lambda node: questions.transaction_count(node, address), votes.COUNT
            )
        count = self._panel().decide(
            lambda node: questions.past_count(node, address, block), votes.PAST_COUNT
        )
        if count is None:
            raise ChainUnavailableError("the nodes do not agree on a nonce")
        return count

    def pending_count(self, address: str) -> int:
        """
        Return the next nonce of *address* behind all that is waiting to be mined.

        The highest that any node says: pools differ, and a transaction in only one of
        them may still be mined.  A node that rests is not waited for where a majority
        answers.

        Raises:
            ChainUnavailableError: Too few nodes answered.
        """
        return self._panel().decide(
            lambda node: questions.pending_count(node, address), votes.PENDING_COUNT
        )

    def fees(self) -> Fees:
        """Return base fee and suggested tip, or the gas price where there is none."""
        return self._panel().first(questions.fees)

    def broadcast(self, raw: bytes) -> None:
        """
        Hand signed bytes to every node; "already known" is success.

        A node that answers with another hash than Keccak-256 of *raw* is lying or
        mixed up: it counts as one that did not answer.

        Raises:
            BroadcastRejectedError: No node took the bytes, and one said why.  This is
                never the end of a refund, and least of all with ``nonce-too-low``:
                these very bytes may be mined already.  Ask for the receipts of all
                hashes of that nonce, and never sign another nonce for it.
            ChainUnavailableError: No node answered; any of them may have the bytes.
        """
        self._panel().any(lambda node: questions.hand_over(node, raw))

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of *tx_hash*.  None proves nothing."""
        return self._panel().decide(
            lambda node: questions.receipt(node, tx_hash), votes.RECEIPT
        )

    def receipts(self, tx_hashes: Sequence[str]) -> Mapping[str, Receipt]:
        """Return the receipts that are known; a missing one proves nothing."""
        if not tx_hashes:
            return {}
        return self._panel().decide(
            lambda node: questions.receipts(node, tx_hashes), votes.RECEIPTS
        )

    def find_transaction(self, sender: str, nonce: int) -> MinedTransaction | None:
        """
        Return the canonical transaction that consumed this *nonce* of *sender*.

        One node's past states are searched, or the next one's if they do not tell;
        what is found there counts if enough nodes have it in the same block.  None
        proves nothing: the nonce may not be consumed yet, or too long ago.
        """
        patience = self._timeout * _SEARCH_TIMEOUTS
        candidates = self._panel().each(
            lambda node: find_hash(node, sender, nonce, patience)
        )
        for candidate in candidates:
            found = candidate and self._transaction(candidate)
            if found and (found.sender, found.nonce) == (sender, nonce):
                return found
        return None

    def latest_block(self) -> Block:
        """Return the head that enough nodes have reached."""
        return self._panel().decide(questions.latest_block, votes.HEAD)

    def block(self, number: int) -> Block | None:
        """Return the canonical block at *number*, if enough nodes have the same."""
        return self._panel().decide(
            lambda node: questions.block(node, number), votes.BLOCK
        )

    def views(self, sender: str, tx_hashes: Sequence[str]) -> Sequence[NodeView]:
        """
        Return what each node says of *sender* and of *tx_hashes*, in their order.

        Also nodes that are distrusted at present, or rest, are asked.
        """
        return self._panel().views(partial(view, sender=sender, tx_hashes=tx_hashes))

    def _transaction(self, tx_hash: str) -> MinedTransaction | None:
        return self._panel().decide(
            lambda node: questions.transaction(node, tx_hash), votes.TRANSACTION
        )

    def _panel(self) -> NodePool:
        process, panel = self._connected
        if panel is None or process != os.getpid():
            # No lock, which a fork could leave locked for ever: when two threads
            # come here at once, one of the two panels is soon forgotten.
            witnesses = [
                TrackedNode(connect(url, self._timeout), place, self._chain_id)
                for place, url in enumerate(self._urls, 1)
            ]
            panel = NodePool(witnesses, self._timeout)
            self._connected = (os.getpid(), panel)
        return panel


def _checked(url: SecretStr | str, place: int) -> SecretStr:
    secret = url if isinstance(url, SecretStr) else SecretStr(url)
    try:
        parts = urlsplit(secret.get_secret_value())
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            Refusal("networks-misconfigured", f"RPC URL {place} is not http or https")
        )
    return secret

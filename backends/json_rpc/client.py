"""The chain client: one network, reached through one or more nodes."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr
from web3 import Web3

from backends.json_rpc import quorum_rules, requests
from backends.json_rpc.node import connect
from backends.json_rpc.node_pool import NodePool
from backends.json_rpc.node_status import request_status
from backends.json_rpc.search import find_hash
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import ChainUnavailableError, ConfigurationError, Refusal
from signer.ports import Block, Call, Fees, MinedTransaction, NodeStatus, Receipt


T = TypeVar("T")

# A search sends many requests, one after another.
_SEARCH_TIMEOUTS = 4


class JSONRPCChain:
    """
    A ``ChainClient`` (``signer/ports/chain.py``) over web3.py.

    Every value is requested from all nodes at once and needs a quorum
    (``backends/json_rpc/quorum_rules.py``).  A transaction is sent to every node; one
    node that accepts it is enough.  ``docs/reference/networks.md`` has the table of
    failures.

    No connection is opened before the first call, and a forked process opens its own,
    so that two processes never share a socket.

    Args:
        urls: http or https URLs of nodes of one network, the preferred one first.
            They are secrets, because they contain the provider's API key.
        timeout: Seconds for each exchange with each node.
        chain_id: The chain id that each node must report (``eth_chainId``) before its
            responses count.

    Raises:
        ConfigurationError: ``networks-misconfigured``: there is no URL, or one is not
            an http or https URL.
    """

    def __init__(
        self,
        urls: Sequence[SecretStr | str],
        timeout: float,
        chain_id: int | None = None,
    ) -> None:
        self._urls = tuple(
            _check_url(url, position) for position, url in enumerate(urls, 1)
        )
        if not self._urls:
            raise ConfigurationError(
                Refusal(
                    "networks-misconfigured", "a network needs at least one RPC URL"
                )
            )
        self._timeout = timeout
        self._chain_id = chain_id
        self._connected: tuple[int, NodePool | None] = (0, None)

    def chain_id(self) -> int:
        """
        Return the chain id of the nodes, also if it is not the configured one.

        Raises:
            ChainError: The nodes are on different chains, without a majority.
            ChainUnavailableError: No node responded.
        """
        return self._get_pool().chain_id()

    def has_code(self, address: str) -> bool:
        """Return whether *address* has code."""
        return self._middle(lambda node: requests.has_code(node, address))

    def balance(self, address: str) -> int:
        """Return the balance of *address* in wei."""
        return self._middle(lambda node: requests.balance(node, address))

    def call(self, call: Call) -> bytes:
        """
        Run *call* on the latest block and return its result.

        Raises:
            ExecutionRevertedError: The message is the contract's decoded reason.
        """
        return self._middle(lambda node: requests.call(node, call))

    def estimate_gas(self, call: Call) -> int:
        """
        Return the gas that *call* would use.

        Raises:
            ExecutionRevertedError: The message is the contract's decoded reason.
        """
        return self._middle(lambda node: requests.estimate_gas(node, call))

    def transaction_count(self, address: str, block: int | None = None) -> int:
        """
        Return the next nonce of *address* after the block at height *block*.

        None means the latest block: the highest count that a quorum has reached.

        Raises:
            ChainUnavailableError: Too few nodes responded, or they do not agree.
        """
        if block is None:
            return self._get_pool().decide(
                lambda node: requests.transaction_count(node, address),
                quorum_rules.COUNT,
            )
        count = self._get_pool().decide(
            lambda node: requests.transaction_count_at(node, address, block),
            quorum_rules.PAST_COUNT,
        )
        if count is None:
            raise ChainUnavailableError("the nodes do not agree on a nonce")
        return count

    def pending_count(self, address: str) -> int:
        """
        Return the next nonce of *address* after all pending transactions.

        The highest count of any node: pools differ, and a transaction in only one of
        them may still be mined.  Unresponsive nodes are skipped if a quorum remains.

        Raises:
            ChainUnavailableError: Too few nodes responded.
        """
        return self._get_pool().decide(
            lambda node: requests.pending_count(node, address),
            quorum_rules.PENDING_COUNT,
        )

    def fees(self) -> Fees:
        """
        Return the base fee and suggested tip, or the gas price before EIP-1559.

        Raises:
            ChainUnavailableError: Too few nodes responded, or they do not agree on
                whether the chain has a base fee.
        """
        fees = self._get_pool().decide(requests.fees, quorum_rules.FEES)
        if fees is None:
            raise ChainUnavailableError("the nodes do not agree on a base fee")
        return fees

    def broadcast(self, raw: bytes) -> None:
        """
        Send a signed transaction to every node; "already known" is success.

        A node that returns another hash than Keccak-256 of *raw* counts as a node that
        did not respond.

        Raises:
            BroadcastRejectedError: No node accepted the transaction, and at least one
                gave a reason.  This does not end a refund, not even with
                ``nonce-too-low``: this very transaction may be mined already.  Request
                the receipts of all hashes of that nonce, and never sign another nonce
                for the refund.
            ChainUnavailableError: No node responded; each may have the transaction.
        """
        self._get_pool().send_to_all(lambda node: requests.broadcast(node, raw))

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of *tx_hash*.  None does not mean that it is not mined."""
        return self._get_pool().decide(
            lambda node: requests.receipt(node, tx_hash), quorum_rules.RECEIPT
        )

    def receipts(self, tx_hashes: Sequence[str]) -> Mapping[str, Receipt]:
        """Return the known receipts; a missing one may be mined nevertheless."""
        if not tx_hashes:
            return {}
        return self._get_pool().decide(
            lambda node: requests.receipts(node, tx_hashes), quorum_rules.RECEIPTS
        )

    def find_transaction(self, sender: str, nonce: int) -> MinedTransaction | None:
        """
        Return the canonical transaction that consumed this *nonce* of *sender*.

        The past states of one node after another are searched.  A transaction counts
        if a quorum has it in the same block.  None does not mean that the nonce is
        free: the nodes may have pruned the state.
        """
        timeout = self._timeout * _SEARCH_TIMEOUTS
        candidates = self._get_pool().each(
            lambda node: find_hash(node, sender, nonce, timeout)
        )
        for candidate in candidates:
            found = candidate and self._transaction(candidate)
            if found and (found.sender, found.nonce) == (sender, nonce):
                return found
        return None

    def latest_block(self) -> Block:
        """Return the highest block that a quorum has reached."""
        return self._get_pool().decide(requests.latest_block, quorum_rules.HEAD)

    def block(self, number: int) -> Block | None:
        """Return the canonical block at *number*, if a quorum agrees on it."""
        return self._get_pool().decide(
            lambda node: requests.block(node, number), quorum_rules.BLOCK
        )

    def node_statuses(
        self, sender: str, tx_hashes: Sequence[str]
    ) -> Sequence[NodeStatus]:
        """
        Return the status of each node, with *sender*'s nonces and *tx_hashes*.

        Distrusted and unresponsive nodes are asked too.
        """
        return self._get_pool().statuses(
            partial(request_status, sender=sender, tx_hashes=tx_hashes)
        )

    def _middle(self, request: Callable[[Web3], T]) -> T:
        result: T = self._get_pool().decide(request, quorum_rules.MIDDLE)
        return result

    def _transaction(self, tx_hash: str) -> MinedTransaction | None:
        return self._get_pool().decide(
            lambda node: requests.transaction(node, tx_hash), quorum_rules.TRANSACTION
        )

    def _get_pool(self) -> NodePool:
        process, pool = self._connected
        if pool is None or process != os.getpid():
            # Without a lock, which a fork could leave locked permanently: if two
            # threads race here, one of the two pools is dropped after its first use.
            nodes = [
                TrackedNode(connect(url, self._timeout), position, self._chain_id)
                for position, url in enumerate(self._urls, 1)
            ]
            pool = NodePool(nodes, self._timeout)
            self._connected = (os.getpid(), pool)
        return pool


def _check_url(url: SecretStr | str, position: int) -> SecretStr:
    secret = url if isinstance(url, SecretStr) else SecretStr(url)
    try:
        parts = urlsplit(secret.get_secret_value())
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            Refusal(
                "networks-misconfigured", f"RPC URL {position} is not http or https"
            )
        )
    return secret

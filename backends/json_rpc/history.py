"""The chain's past: blocks, transfers, costs and old balances, by a quorum of nodes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from eth_abi.encoding import AddressEncoder
from pydantic import SecretStr

from backends.json_rpc import parsing
from backends.json_rpc.client import JSONRPCChain, require_agreement
from backends.json_rpc.node import LARGEST_BATCH, NO_RULES, MethodCall, Node, NodeRules
from backends.json_rpc.parsing import Result, address, attempt, digest, quantity
from backends.json_rpc.quorum import QuorumRule, agreed, differs
from backends.json_rpc.requests import ImpossibleResponseError, send
from signer.chain.erc20 import TRANSFER_EVENT, encode_balance_of
from signer.errors import ChainError, ChainUnavailableError, require
from signer.ports.chain import Header, Log, Settled, TokenTransfer


T = TypeVar("T")

_encode_address = AddressEncoder()
_EVENT = f"0x{TRANSFER_EVENT.hex()}"
_WORD = 32


@dataclass(frozen=True, slots=True)
class TransferQuery:
    """The tokens, the wallets, and the first and the last block of a request."""

    tokens: tuple[str, ...]
    wallets: tuple[str, ...]
    first: int
    last: int


def headers(node: Node, items: Sequence[int]) -> Sequence[Header | ChainError | None]:
    """Return the block at each height, None if the node does not have it."""
    calls: list[MethodCall] = [
        ("eth_getBlockByNumber", [hex(number), False]) for number in items
    ]
    return [
        _read(partial(_parse_header, number), result)
        for number, result in zip(items, node.request_all(calls), strict=True)
    ]


def settled(node: Node, items: Sequence[str]) -> Sequence[Settled | ChainError | None]:
    """Return each transaction, None if the node does not have it mined."""
    calls: list[MethodCall] = [
        (method, [tx_hash])
        for tx_hash in items
        for method in ("eth_getTransactionByHash", "eth_getTransactionReceipt")
    ]
    results = node.request_all(calls)
    return [
        _read(partial(_parse_settled, tx_hash), *results[2 * place : 2 * place + 2])
        for place, tx_hash in enumerate(items)
    ]


def transfers(query: TransferQuery, node: Node) -> tuple[TokenTransfer, ...]:
    """Return the transfers from or to the wallets, in the chain's order."""
    wallets = [f"0x{_encode_address(each).hex()}" for each in query.wallets]
    found: dict[tuple[int, int], TokenTransfer] = {}
    for topics in ([_EVENT, wallets], [_EVENT, None, wallets]):
        limits = {"fromBlock": hex(query.first), "toBlock": hex(query.last)}
        wanted = {**limits, "address": list(query.tokens), "topics": topics}
        for log in node.request("eth_getLogs", [wanted]):
            transfer = _parse_transfer(log)
            if not _is_wanted(transfer, query):
                raise ImpossibleResponseError("the node returned an unwanted event")
            found[transfer.block.number, transfer.index] = transfer
    return tuple(found[place] for place in sorted(found))


def events(
    contract: str, topic: bytes, first: int, last: int, node: Node
) -> tuple[Log, ...]:
    """Return the events of *contract* with *topic*, in the chain's order."""
    limits = {"fromBlock": hex(first), "toBlock": hex(last)}
    wanted = {**limits, "address": contract, "topics": [f"0x{topic.hex()}"]}
    found: dict[tuple[int, int], Log] = {}
    for each in node.request("eth_getLogs", [wanted]):
        log, block = parsing.log(each), parsing.containing_block(each)
        is_wanted = (log.address, log.topics[:1]) == (contract, (topic,))
        if not is_wanted or not first <= block.number <= last:
            raise ImpossibleResponseError("the node returned an unwanted event")
        if each.get("removed", False):
            raise ValueError("not an event of a canonical block")
        found[block.number, quantity(each["logIndex"])] = log
    return tuple(found[place] for place in sorted(found))


def coin_balance(node: Node, owner: str, block: int) -> int:
    if node.rules.coin is not None:
        token, unit = node.rules.coin
        return token_balance(node, token, owner, block) * unit
    return quantity(node.request("eth_getBalance", [owner, hex(block)]))


def token_balance(node: Node, token: str, owner: str, block: int) -> int:
    call = {"to": token, "data": f"0x{encode_balance_of(owner).hex()}"}
    result = parsing.data(node.request("eth_call", [call, hex(block)]))
    if not result:
        return 0  # The contract did not exist yet.
    return parsing.number(result)


def _read(parse: Callable[..., T | None], *results: Any) -> T | ChainError | None:
    """Return what *parse* makes of *results*, or an error; None if one is None."""

    def read(_: None) -> T | None:
        found = [require(result) for result in results]
        return None if None in found else parse(*found)

    return attempt(partial(send, read, None))


def _parse_header(number: int, result: Result) -> Header:
    block = parsing.block(result)
    if block.number != number:
        raise ValueError("another block")
    return Header(block, quantity(result["timestamp"]))


def _parse_settled(tx_hash: str, content: Result, paid: Result) -> Settled | None:
    mined = parsing.transaction(content, tx_hash)
    receipt = parsing.receipt(paid, tx_hash)
    if mined is None or receipt is None:
        return None
    if mined.block != receipt.block:
        raise ValueError("the transaction and its receipt are in two blocks")
    execution_fee, fee = parsing.fees(paid)
    return Settled(
        tx_hash=mined.tx_hash,
        sender=mined.sender,
        nonce=mined.nonce,
        to=mined.to,
        value=mined.value,
        data=mined.data,
        block=mined.block,
        succeeded=receipt.succeeded,
        execution_fee=execution_fee,
        fee=fee,
        logs=receipt.logs,
    )


def _parse_transfer(log: Result) -> TokenTransfer:
    event, sender, recipient = (parsing.data(topic) for topic in log["topics"])
    amount = parsing.data(log["data"])
    if event != TRANSFER_EVENT or len(amount) != _WORD or log.get("removed", False):
        raise ValueError("not a transfer of a canonical block")
    return TokenTransfer(
        token=address(log["address"]),
        sender=_parse_topic(sender),
        recipient=_parse_topic(recipient),
        amount=int.from_bytes(amount, "big"),
        tx_hash=digest(log["transactionHash"]),
        block=parsing.containing_block(log),
        index=quantity(log["logIndex"]),
    )


def _parse_topic(topic: bytes) -> str:
    return address(f"0x{topic[-20:].hex()}")


def _is_wanted(transfer: TokenTransfer, query: TransferQuery) -> bool:
    return (
        transfer.token in query.tokens
        and bool({transfer.sender, transfer.recipient} & {*query.wallets})
        and query.first <= transfer.block.number <= query.last
    )


_CHUNK = LARGEST_BATCH // 2
"""The most items of one exchange: a transaction takes two requests."""


_SAME: QuorumRule[Any] = QuorumRule(agreed, differs)
"""A quorum must agree; None is a node that does not have it, and agrees with none."""


class JSONRPCHistory(JSONRPCChain):
    """
    A ``ChainHistory`` (``signer/ports/chain.py``) over JSON-RPC.

    Providers limit the blocks and the results of one ``eth_getLogs``, each differently.
    So a range that fails is halved, and later ranges are not longer than the last one
    that worked.
    """

    def __init__(
        self,
        urls: Sequence[SecretStr | str],
        timeout: float,
        chain_id: int | None = None,
        *,
        rules: NodeRules = NO_RULES,
    ) -> None:
        """Create a client, as ``JSONRPCChain``."""
        super().__init__(urls, timeout, chain_id, rules=rules)
        self._span: int | None = None

    def headers(self, numbers: Sequence[int]) -> Sequence[Header]:
        found = self._each(headers, numbers)
        if None in found:
            raise ChainUnavailableError("the nodes do not have, or agree on, a block")
        return [each for each in found if each is not None]

    def transfers(
        self,
        tokens: Collection[str],
        wallets: Collection[str],
        first: int,
        last: int,
    ) -> Sequence[TokenTransfer]:
        if not tokens or not wallets:
            return []

        def read(start: int, end: int, node: Node) -> Sequence[TokenTransfer]:
            query = TransferQuery(tuple(tokens), tuple(wallets), start, end)
            return transfers(query, node)

        return self._by_ranges(read, first, last, "the transfers of some blocks")

    def events(
        self, contract: str, topic: bytes, first: int, last: int
    ) -> Sequence[Log]:
        read = partial(events, contract, topic)
        return self._by_ranges(read, first, last, "the events of some blocks")

    def _by_ranges(
        self,
        read: Callable[[int, int, Node], Sequence[T]],
        first: int,
        last: int,
        what: str,
    ) -> list[T]:
        """Return what *read* returns for all blocks, in ranges that the nodes allow."""
        found = list[T]()
        while first <= last:
            end = last if self._span is None else min(last, first + self._span - 1)
            part = attempt(partial(self._decide, partial(read, first, end)))
            if not isinstance(part, ChainError):
                found += require_agreement(part, what)
                first = end + 1
            elif end == first:
                raise part
            else:
                self._span = (end - first + 1) // 2
        return found

    def settled(self, tx_hashes: Sequence[str]) -> Mapping[str, Settled]:
        found: Sequence[Settled | None]
        found = self._each(settled, list(dict.fromkeys(tx_hashes)))
        return {each.tx_hash: each for each in found if each is not None}

    def coin_balance(self, address: str, block: int) -> int:
        found = self._decide(lambda node: coin_balance(node, address, block))
        return require_agreement(found, "a balance")

    def token_balance(self, token: str, address: str, block: int) -> int:
        found = self._decide(lambda node: token_balance(node, token, address, block))
        return require_agreement(found, "a balance")

    def _decide(self, request: Callable[[Node], T]) -> T | None:
        """Return what a quorum agrees on; None if there is none."""
        result: T | None = self._get_pool().decide(request, _SAME)
        return result

    def _each(self, request: Any, items: Sequence[Any]) -> list[Any]:
        """Return the result for each item; raise the first error."""
        return [require(each) for each in self._ask_each(_SAME, request, items, _CHUNK)]

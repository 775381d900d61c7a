"""Asks one node what a network is like, for its entry in the networks file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eth_abi.abi import decode
from eth_utils.crypto import keccak
from pydantic import SecretStr

from backends.json_rpc import parsing, requests
from backends.json_rpc.node import LARGEST_BATCH, MethodCall, Node
from backends.json_rpc.parsing import attempt, quantity
from signer.chain.chain import OP_STACK_ORACLE
from signer.chain.erc20 import DECIMALS
from signer.config.networks import KINDS, Network
from signer.errors import ChainError
from signer.ports.chain import FinalityTag


_SAMPLES = 20
"""How many blocks the time between two is measured over."""

_LONGEST_BLOCK = 600
_SIZES = (LARGEST_BATCH, 20, 10, 5, 2)
_NOBODY = "0x0000000000000000000000000000000000000001"
_SYMBOL = keccak(text="symbol()")[:4]
_DOMAIN = keccak(text="DOMAIN_SEPARATOR()")[:4]
_WORD = 32


@dataclass(frozen=True, slots=True)
class ProbedToken:
    """What a contract says of itself; None where it says nothing that is usable."""

    address: str
    decimals: int | None
    symbol: str | None
    domain: str | None


@dataclass(frozen=True, slots=True)
class Probe:
    """
    What a node shows of its network.

    ``block_seconds`` is what the last blocks took; None if there is one only.
    ``price`` is the base fee, or the gas price, in wei.  ``safe`` and ``finalized`` are
    the heights of the newest blocks that it calls so, if it does.  ``block_receipts``
    and ``simulate`` are whether it serves these methods, and ``batch`` is the largest
    batch of those tried that it answers, or 1.
    """

    chain_id: int
    client: str
    head: int
    block_seconds: float | None
    has_base_fee: bool
    price: int
    safe: int | None
    finalized: int | None
    has_pending: bool
    batch: int
    block_receipts: bool
    simulate: bool
    is_op_stack: bool
    tokens: Sequence[ProbedToken] = field(default=())


def probe(url: SecretStr, timeout: float, tokens: Sequence[str] = ()) -> Probe:
    """
    Ask the node at *url*; each exchange may take *timeout* seconds.

    Raises:
        ChainUnavailableError: It does not answer what each node answers.
    """
    return requests.send(partial(_probe, tokens=tokens), Node(url, timeout))


def _probe(node: Node, tokens: Sequence[str]) -> Probe:
    chain_id = requests.send(requests.chain_id, node)
    newest = node.request("eth_getBlockByNumber", ["latest", False]) or {}
    head = requests.send(parsing.block, newest)
    fees = requests.send(requests.fees, node)
    return Probe(
        chain_id,
        client=str(_or_none(node, "web3_clientVersion", []) or "unknown"),
        head=head.number,
        block_seconds=_block_seconds(node, head.number),
        has_base_fee=not fees.is_legacy,
        price=fees.priority_fee if fees.base_fee is None else fees.base_fee,
        safe=_height(node, "safe"),
        finalized=_height(node, "finalized"),
        has_pending=_or_none(node, "eth_getTransactionCount", [_NOBODY, "pending"])
        is not None,
        batch=next((size for size in _SIZES if node.takes(size)), 1),
        block_receipts=_or_none(node, "eth_getBlockReceipts", [hex(head.number)])
        is not None,
        simulate=_has_simulation(node),
        is_op_stack=_has_code(node, OP_STACK_ORACLE),
        tokens=[_token(node, each) for each in tokens],
    )


def _height(node: Node, tag: FinalityTag) -> int | None:
    found = attempt(lambda: requests.send(partial(requests.final_block, tag=tag), node))
    return None if isinstance(found, ChainError) else found.number


def _or_none(node: Node, method: str, params: list[Any]) -> Any:
    result = attempt(partial(node.request, method, params))
    return None if isinstance(result, ChainError) else result


def _block_seconds(node: Node, head: int) -> float | None:
    """Return what the last blocks took on average: some share a second."""
    first = max(head - _SAMPLES, 1)  # Block 0 may have any time.
    calls: list[MethodCall] = [
        ("eth_getBlockByNumber", [hex(number), False]) for number in (first, head)
    ]
    found = node.request_all(calls)
    if first >= head or not all(isinstance(each, dict) for each in found):
        return None
    before, after = (quantity(each["timestamp"]) for each in found)
    seconds = round((after - before) / (head - first), 2)
    return seconds if 0 < seconds <= _LONGEST_BLOCK else None


def _has_simulation(node: Node) -> bool:
    simulated = {"blockStateCalls": [{"calls": list[object]()}]}
    found = attempt(partial(node.forward, "eth_simulateV1", [simulated, "latest"]))
    return isinstance(found, list)


def _has_code(node: Node, address: str) -> bool:
    return _or_none(node, "eth_getCode", [address, "latest"]) not in {None, "0x"}


def _token(node: Node, address: str) -> ProbedToken:
    def ask(selector: bytes) -> bytes:
        call = {"to": address, "data": f"0x{selector.hex()}"}
        found = _or_none(node, "eth_call", [call, "latest"])
        return b"" if found is None else parsing.data(found)

    decimals, domain = ask(DECIMALS), ask(_DOMAIN)
    return ProbedToken(
        address,
        int.from_bytes(decimals) if len(decimals) == _WORD else None,
        _text(ask(_SYMBOL)),
        f"0x{domain.hex()}" if len(domain) == _WORD else None,
    )


def _text(result: bytes) -> str | None:
    """Return what ``symbol()`` says; some old tokens return 32 bytes."""
    try:
        if len(result) == _WORD:
            text = result.rstrip(b"\0").decode()
        else:
            (text,) = decode(["string"], result)
    except Exception:  # noqa: BLE001  Whatever a contract returns.
        return None
    return text if text.isprintable() else None


def guess_kind(found: Probe) -> str | None:
    """Return the kind of network that a node seems to be of; None if none is near."""
    for name, kind in KINDS.items():
        if found.chain_id in kind.get("chain_ids", ()):
            return name
    if found.is_op_stack:
        return "op-stack"
    if found.finalized is None:
        return None
    return "instant" if found.head - found.finalized <= 1 else "ethereum"


def is_near(declared: float, found: float | None) -> bool:
    """
    Return whether *found* seconds of a block are about as *declared*.

    >>> is_near(12, 13.1), is_near(12, 2), is_near(12, None)
    (True, False, True)
    """
    return found is None or declared / 2 <= found <= declared * 2


def find_differences(network: Network, found: Probe) -> Iterator[str]:
    """Yield what the keys of *network* say otherwise than its node shows."""
    if network.fees not in {None, "legacy"} and not found.has_base_fee:
        yield f"fees is {network.fees}, and its newest block has no base fee"
    if network.finality != "confirmations":
        height = found.safe if network.finality == "safe" else found.finalized
        if height is None:
            yield f"finality is {network.finality}, and the node names no such block"
    if network.pending == "pool" and not found.has_pending:
        yield "pending is pool, and the node has no pending state"
    if network.rpc_batch > found.batch:
        yield f"rpc_batch is {network.rpc_batch}, and the node takes {found.batch}"
    seconds = network.block_seconds
    if seconds is not None and not is_near(seconds, found.block_seconds):
        yield f"block_seconds is {seconds:g}, and blocks take {found.block_seconds:g}"
    if (network.data_fee is not None) is not found.is_op_stack:
        shown = "has" if found.is_op_stack else "does not have"
        yield f"data_fee is {network.data_fee or 'not set'}, and the chain {shown} one"

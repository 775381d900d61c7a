"""What a lying node may answer: the replies to some methods, by name of the lie."""

from collections.abc import Mapping
from typing import Any

from eth_utils.crypto import keccak

from tests.fixtures.replies import Altered, Computed, Error, Reply, Result


GWEI = 10**9

_TOO_POOR = Error(-32000, "insufficient funds for gas * price + value")
_REVERT = Error(3, "execution reverted", "0x75e91ce7")
_OTHER_HASH = "0x" + "cd" * 32

Params = list[Any]


def _head(**changes: object) -> Mapping[str, Reply]:
    """Return a lie about the newest block."""

    def alter(block: Any, params: Params) -> object:
        return block | changes if params[0] == "latest" else block

    number = changes.get("number")
    heights: dict[str, Reply] = {"eth_blockNumber": Result(number)} if number else {}
    return {"eth_getBlockByNumber": Altered(alter), **heights}


def _without_base_fee(block: Any, params: Params) -> object:
    return {name: block[name] for name in block if name != "baseFeePerGas"}


def _nonce(difference: int) -> Mapping[str, Reply]:
    def alter(count: Any, params: Params) -> object:
        return hex(max(int(count, 16) + difference, 0))

    return {"eth_getTransactionCount": Altered(alter)}


def _receipt(params: Params) -> object:
    """Return an invented receipt of a failed transaction."""
    return {
        "transactionHash": params[0],
        "blockHash": _OTHER_HASH,
        "blockNumber": "0x1",
        "status": "0x0",
        "logs": [],
    }


def _with_another_log(receipt: Any, params: Params) -> object:
    first = receipt["logs"][0]
    return receipt | {"logs": [first, first | {"data": "0x" + "ff" * 32}]}


def _all_invented(receipts: Any, params: Params) -> object:
    return [_receipt([each["transactionHash"]]) for each in receipts]


def _all_with_another_log(receipts: Any, params: Params) -> object:
    return [_with_another_log(each, params) for each in receipts]


def _hash_of(params: Params) -> object:
    return "0x" + keccak(hexstr=params[0]).hex()


_BASE_FEE: Mapping[str, Reply] = _head(baseFeePerGas=hex(30_000 * GWEI))
_TIP: Mapping[str, Reply] = {"eth_maxPriorityFeePerGas": Result(hex(10_000 * GWEI))}
_GAS: Mapping[str, Reply] = {"eth_estimateGas": Result(hex(16_000_000))}
_EMPTY: Mapping[str, Reply] = {
    "eth_getBalance": Result("0x0"),
    "eth_call": Result("0x" + "00" * 32),
}
_DROPPED: Mapping[str, Reply] = {
    "eth_sendRawTransaction": Error(-32000, "already known")
}

LIES: Mapping[str, Mapping[str, Reply]] = {
    "base-fee-hidden": {"eth_getBlockByNumber": Altered(_without_base_fee)},
    "base-fee-0": _head(baseFeePerGas="0x0"),
    "base-fee-30000-gwei": _BASE_FEE,
    "tip-10000-gwei": _TIP,
    "tip-0": {"eth_maxPriorityFeePerGas": Result("0x0")},
    "gas-21500": {"eth_estimateGas": Result(hex(21_500))},
    "gas-16000000": _GAS,
    "reverts": {"eth_estimateGas": _REVERT, "eth_call": _REVERT},
    "nonce-too-high": _nonce(1000),
    "nonce-one-too-high": _nonce(1),
    "nonce-too-low": _nonce(-1000),
    "head-ahead": _head(number=hex(10**6), hash=_OTHER_HASH),
    "head-too-low": _head(number="0x1"),
    "other-blocks": {
        "eth_getBlockByNumber": Altered(lambda block, _: block | {"hash": _OTHER_HASH})
    },
    "receipt-invented": {"eth_getTransactionReceipt": Computed(_receipt)},
    "receipt-missing": {
        "eth_getTransactionReceipt": Result(None),
        "eth_getTransactionByHash": Result(None),
    },
    "log-invented": {"eth_getTransactionReceipt": Altered(_with_another_log)},
    "block-receipts-invented": {"eth_getBlockReceipts": Altered(_all_invented)},
    "block-receipts-missing": {"eth_getBlockReceipts": Result([])},
    "block-logs-invented": {"eth_getBlockReceipts": Altered(_all_with_another_log)},
    "empty-wallet": _EMPTY,
    "no-contract": {"eth_getCode": Result("0x")},
    "already-known": _DROPPED,
    "accepted-and-dropped": {"eth_sendRawTransaction": Computed(_hash_of)},
    "rejected-funds": {"eth_sendRawTransaction": _TOO_POOR},
    "rejected-fee": {
        "eth_sendRawTransaction": Error(-32000, "transaction underpriced")
    },
    "rejected-nonce": {"eth_sendRawTransaction": Error(-32000, "nonce too low")},
    "other-chain": {"eth_chainId": Result("0x1")},
    "many-at-once": {
        **_BASE_FEE,
        **_TIP,
        **_GAS,
        **_EMPTY,
        **_DROPPED,
        **_nonce(1000),
        "eth_getTransactionReceipt": Computed(_receipt),
    },
}
"""The lies; each lasts as long as its replies are scripted."""

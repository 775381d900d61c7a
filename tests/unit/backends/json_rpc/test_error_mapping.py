"""Error messages of each Ethereum client, and the errors that they become."""

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from backends.json_rpc.error_mapping import (
    AlreadyKnownError,
    CannotAnswerError,
    is_not_found,
    map_error,
    printable,
    revert_reason,
)
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
)


ERROR_STRING = bytes.fromhex("08c379a0")
PANIC = bytes.fromhex("4e487b71")

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


def reason_string(text: str) -> bytes:
    """Return the return data of ``require(false, text)``."""
    return ERROR_STRING + encode(["string"], [text])


@pytest.mark.parametrize(
    "message",
    [
        "already known",  # geth, Erigon, reth
        "ALREADY_EXISTS: already known",  # Erigon
        "INTERNAL_ERROR: existing tx with same hash",  # Erigon
        "AlreadyKnown",  # Nethermind
        "Known transaction",  # Besu
        "known transaction: 3b7baba5",  # geth of old
        "transaction already imported",  # anvil
        "Transaction with the same hash was already imported.",  # OpenEthereum
        "known transaction. transaction with hash 0x01 is already in the system",
        "submit transaction to pool failed: Pool(AlreadyImported)",  # Moonbeam
        "block already known",  # Erigon
        "tx already in mempool",  # Ethermint
        "tx already exists in cache",  # CometBFT
        "pending transaction with same hash already exists",  # RSK
    ],
)
def test_already_known_is_success_in_all_wordings(message: str) -> None:
    """Each client has its own message for it, and its own code (R8)."""
    for code in (-32000, -32003, -32010, -32603):
        error = map_error("eth_sendRawTransaction", {"code": code, "message": message})

        assert isinstance(error, AlreadyKnownError)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("nonce too low", "nonce-too-low"),
        ("nonce too low: next nonce 82, tx nonce 81", "nonce-too-low"),
        ("Nonce too low", "nonce-too-low"),
        ("OldNonce, Current nonce: 5, nonce of rejected tx: 4", "nonce-too-low"),
        ("Transaction nonce is too low. Try incrementing the nonce.", "nonce-too-low"),
        ("submit transaction to pool failed: Pool(Stale)", "nonce-too-low"),
        ("nonce has already been used", "nonce-too-low"),
        ("transaction already finalized", "nonce-too-low"),
        ("invalid nonce; got 4, expected 5: invalid sequence", "nonce-too-low"),
        ("invalid nonce; got 10, expected 9: invalid sequence", "nonce-too-high"),
        ("nonce too high", "nonce-too-high"),
        ("tx nonce 9 exceeds next nonce 7", "nonce-too-high"),
        ("NonceGap, Future nonce. Expected nonce: 3", "nonce-too-high"),
        ("NonceTooFarInFuture", "nonce-too-high"),
        (
            "Transaction nonce is too distant from current sender nonce",
            "nonce-too-high",
        ),
        ("An invalid transaction with a lower nonce exists", "nonce-too-high"),
        ("replacement transaction underpriced", "underpriced"),
        ("transaction underpriced: gas tip cap 1, minimum needed 2", "underpriced"),
        ("INTERNAL_ERROR: could not replace existing tx", "underpriced"),
        ("FeeTooLowToCompete", "underpriced"),
        ("FeeTooLow, EffectivePriorityFeePerGas too low 1 < 2", "underpriced"),
        ("ReplacementNotAllowed", "underpriced"),
        ("there is another tx which has the same nonce in the tx pool", "underpriced"),
        ("Gas price below configured minimum gas price", "underpriced"),
        ("transaction gas price below minimum: gas tip cap 0", "underpriced"),
        ("max fee per gas less than block base fee: address 0x01", "underpriced"),
        ("Transaction gas price 1wei is too low.", "underpriced"),
        ("Transaction maxFeePerGas (1) is too low for the next block", "underpriced"),
        ("insufficient funds for gas * price + value", "insufficient-funds"),
        ("Sender doesn't have enough funds to send tx.", "insufficient-funds"),
        ("InsufficientFunds, Balance is 1 less than sending", "insufficient-funds"),
        ("Upfront cost exceeds account balance", "insufficient-funds"),
        ("unknown transaction", "other"),
        ("invalid nonce; got 5, expected 5", "other"),
        ("OwnNonceAlreadyUsed", "other"),
        ("exceeds block gas limit", "other"),
        ("invalid sender", "other"),
        ("tx fee (1.05 ether) exceeds the configured cap (1.00 ether)", "other"),
    ],
)
def test_a_refusal_has_a_reason(message: str, reason: str) -> None:
    """A refused transaction has one of five reasons."""
    for code in (-32000, -32003):
        error = map_error("eth_sendRawTransaction", {"code": code, "message": message})

        assert isinstance(error, BroadcastRejectedError)
        assert error.reason == reason


@pytest.mark.parametrize("code", [-32000, -32003, -32603, -32010, 3, None, "odd"])
def test_nonce_too_low_is_a_refusal_with_any_code(code: object) -> None:
    """The message decides, not the code; a retry is useless (R9)."""
    error = map_error(
        "eth_sendRawTransaction", {"code": code, "message": "nonce too low"}
    )

    assert isinstance(error, BroadcastRejectedError)
    assert not error.retryable
    assert error.reason == "nonce-too-low"


@pytest.mark.parametrize(
    "error",
    [
        {"code": -32000, "message": "txpool is full"},
        {"code": -32000, "message": "INTERNAL_ERROR: pending sub-pool is full"},
        {"code": -32000, "message": "sequencer pending tx pool full, please try again"},
        {"code": -32000, "message": "account limit exceeded"},
        {"code": -32000, "message": "future transaction tries to replace pending"},
        {"code": -32000, "message": "in-flight transaction limit reached"},
        {"code": -32010, "message": "There are too many transactions in the queue."},
        {"code": -32000, "message": "tx dropped due to L2 congestion"},
        {"code": -32005, "message": "daily request count exceeded"},
        {"code": -32603, "message": "Internal error"},
        {"code": "E_QUOTA", "message": "no"},
        {"message": "no"},
        "an error that is no object",
    ],
)
def test_a_temporary_error_is_no_refusal(error: object) -> None:
    """The same bytes are sent again later (R12)."""
    outcome = map_error("eth_sendRawTransaction", error)

    assert isinstance(outcome, ChainUnavailableError)
    assert outcome.retryable


PAUSED = "0x" + reason_string("paused").hex()


@pytest.mark.parametrize(
    "error",
    [
        {"code": 3, "message": "execution reverted: no", "data": PAUSED},  # geth
        {"code": -32000, "message": "Execution reverted", "data": PAUSED},  # Besu
        {  # Nethermind
            "code": -32015,
            "message": "VM execution error.",
            "data": f"Reverted {PAUSED}",
        },
        {"code": -32603, "message": "reverted", "data": {"data": PAUSED}},  # Hardhat
        {
            "code": -32603,
            "message": "execution reverted",
            "data": {"originalError": {"data": PAUSED}},
        },
    ],
)
@pytest.mark.parametrize("method", ["eth_call", "eth_estimateGas"])
def test_return_data_is_found_where_clients_put_it(
    method: str, error: dict[str, object]
) -> None:
    """The reason is decoded from the client's place for return data."""
    outcome = map_error(method, error)

    assert isinstance(outcome, ExecutionRevertedError)
    assert str(outcome) == "paused"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"code": 3, "message": "execution reverted: paused"}, "no return data"),
        ({"code": -32000, "message": "execution reverted"}, "gave no reason"),
        ({"code": 3, "message": "execution reverted", "data": "0x"}, "gave no reason"),
        (
            {"code": -32000, "message": "gas required exceeds allowance (30000000)"},
            "ran out of gas",
        ),
        ({"code": -32000, "message": "invalid opcode: INVALID"}, "ran out of gas"),
    ],
)
def test_a_revert_without_data_is_a_revert(
    error: dict[str, object], reason: str
) -> None:
    """Old clients and contracts send no data; their messages are not passed on."""
    outcome = map_error("eth_estimateGas", error)

    assert isinstance(outcome, ExecutionRevertedError)
    assert reason in str(outcome)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-32601, ChainError),
        (-32004, ChainError),
        (-32602, ChainError),
        (-32000, CannotAnswerError),
        (-32005, CannotAnswerError),
        (-32603, CannotAnswerError),
    ],
)
def test_other_errors_are_retryable_or_not(code: int, kind: type[ChainError]) -> None:
    """An unknown method or parameter is permanent."""
    outcome = map_error("eth_getBalance", {"code": code, "message": "header not found"})

    assert type(outcome) is kind
    assert outcome.retryable is (kind is CannotAnswerError)


def test_only_executions_can_revert() -> None:
    outcome = map_error("eth_getBalance", {"code": 3, "message": "execution reverted"})

    assert type(outcome) is CannotAnswerError


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the contract gave no reason"),
        (b"\x01\x02\x03", "the contract gave no reason"),
        (reason_string("ERC20: too much"), "ERC20: too much"),
        (reason_string(""), "the contract gave no reason"),
        (reason_string("a\r\nb\x1b[31m\u202ec"), "a b [31m c"),
        (reason_string("x" * 1000), "x" * 200),
        (ERROR_STRING + b"\x00" * 31, "custom error 0x08c379a0"),
        (ERROR_STRING + encode(["bytes"], [b"\xff\xfe"]), "\ufffd\ufffd"),
        (ERROR_STRING + encode(["string"], ["unpadded"])[:72], "unpadded"),
        (
            PANIC + encode(["uint256"], [0x11]),
            "panic 0x11: arithmetic overflow or underflow",
        ),
        (PANIC + encode(["uint256"], [0x99]), "panic 0x99: unknown"),
        (PANIC, "custom error 0x4e487b71"),
        (bytes.fromhex("75e91ce7") + bytes(32), "custom error 0x75e91ce7"),
    ],
)
def test_decodes_revert_reasons(data: bytes, reason: str) -> None:
    """Reason strings, panics and custom errors become one short line."""
    assert revert_reason(data) == reason


@given(st.sampled_from([b"", ERROR_STRING, PANIC]), st.binary(max_size=200))
def test_no_return_data_breaks_the_decoder(selector: bytes, data: bytes) -> None:
    """The reason for any return data is one printable line."""
    reason = revert_reason(selector + data)

    assert reason.isprintable()
    assert 0 < len(reason) <= 200


@given(
    st.sampled_from(["eth_call", "eth_sendRawTransaction", "eth_chainId"]),
    ANYTHING
    | st.fixed_dictionaries(
        {}, optional={"code": ANYTHING, "message": ANYTHING, "data": ANYTHING}
    ),
)
def test_no_error_object_breaks_the_translation(method: str, error: object) -> None:
    outcome = map_error(method, error)

    assert isinstance(outcome, ChainError)
    assert str(outcome).isprintable()


@given(st.text())
def test_printable_text_is_short_and_on_one_line(text: str) -> None:
    """Control characters, line ends and direction marks are removed."""
    clean = printable(text)

    assert clean.isprintable()
    assert len(clean) <= 200


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": -32000, "message": "header not found"}, True),
        ({"code": -32001, "message": "Block not found"}, True),
        ({"code": -32001, "message": "block with such number is not found"}, True),
        ({"code": -32000, "message": "missing trie node"}, False),
        ({"code": -32000}, False),
        ("block not found", False),
    ],
)
def test_recognises_a_missing_block(error: object, expected: bool) -> None:
    """Some clients return an error instead of null."""
    assert is_not_found(error) is expected

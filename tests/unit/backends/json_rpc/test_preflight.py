"""The pending count, fees and gas estimates of a batch of transactions."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from backends.json_rpc.error_mapping import CannotAnswerError
from backends.json_rpc.node import NodeRules
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
    require,
)
from signer.ports.chain import Call, Fees, Preflight
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Computed, Delay, Drop, Error, Reply, Result
from tests.support.rpc import ADDRESS, BLOCK, CALL, RESULTS, Three, client
from tests.support.waiting import eventually


FEES = Fees(base_fee=100, priority_fee=7)
REVERT = Error(3, "execution reverted", "0x75e91ce7")


def call_of(number: int) -> Call:
    """Return a call that needs 256 + *number* gas, by ``script``."""
    return Call(ADDRESS, ADDRESS, number.to_bytes(4))


def script(node: FakeNode) -> FakeNode:
    """Let *node* answer each request."""
    gas = Computed(lambda params: hex(256 + int(params[0]["data"], 16)))
    node.script("eth_getTransactionCount", Result("0x5"))
    node.script("eth_getBlockByNumber", Result(BLOCK))
    node.script("eth_maxPriorityFeePerGas", Result("0x7"))
    node.script("eth_estimateGas", gas)
    return node


def calls(*numbers: int) -> Sequence[Call]:
    """Return the calls with these numbers."""
    return [call_of(number) for number in numbers]


def kinds(preflight: Preflight) -> list[object]:
    """Return the estimates, with the classes of errors."""
    return [
        type(estimate) if isinstance(estimate, ChainError) else estimate
        for estimate in preflight.estimates
    ]


@pytest.fixture
def node(fake_node: FakeNode) -> FakeNode:
    """A node that answers each request."""
    return script(fake_node)


def test_a_preflight_takes_one_exchange(node: FakeNode) -> None:
    """The requests are those of the single methods."""
    assert client(node).preflight(ADDRESS, calls(1)) == Preflight(5, FEES, (257,))
    assert node.batches == [4]
    assert [(request.method, request.params) for request in node.requests] == [
        ("eth_getTransactionCount", [ADDRESS, "pending"]),
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_maxPriorityFeePerGas", []),
        (
            "eth_estimateGas",
            [
                {
                    "from": ADDRESS,
                    "to": ADDRESS,
                    "data": "0x00000001",
                    "value": "0x0",
                },
                "latest",
            ],
        ),
    ]


@pytest.mark.parametrize(
    ("count", "batches"),
    [(0, [3]), (1, [4]), (47, [50]), (48, [50]), (120, [50, 50, 23])],
)
def test_an_estimate_is_in_the_place_of_its_call(
    node: FakeNode, count: int, batches: list[int]
) -> None:
    """In batches of at most 50; equal calls have an estimate each."""
    numbers = [number // 2 for number in range(count)]

    preflight = client(node).preflight(ADDRESS, calls(*numbers))

    assert preflight.estimates == tuple(256 + number for number in numbers)
    assert node.batches == batches
    assert len(node.requests) == 3 + count


def test_a_network_without_a_pending_state(node: FakeNode) -> None:
    """The latest one has all transactions."""
    chain = client(node, rules=NodeRules(has_pending=False))

    assert chain.preflight(ADDRESS, []).pending_count == 5
    assert chain.pending_count(ADDRESS) == 5
    assert node.calls("eth_getTransactionCount") == [[ADDRESS, "latest"]] * 2


def test_a_network_with_a_gas_price(node: FakeNode) -> None:
    """It is asked for at once, and no block is."""
    node.script("eth_gasPrice", Result("0x9"))
    chain, fees = client(node, rules=NodeRules(fees="legacy")), Fees(None, 9)

    assert chain.preflight(ADDRESS, calls(1)) == Preflight(5, fees, (257,))
    assert node.batches == [3]
    assert chain.fees() == fees
    assert not node.calls("eth_getBlockByNumber")


def test_a_network_with_base_fees_believes_no_other_node(node: FakeNode) -> None:
    """A node that reports none would turn its transactions into another type."""
    chain = client(node, rules=NodeRules(fees="eip-1559"))
    assert chain.fees() == FEES

    node.script("eth_getBlockByNumber", Result({**BLOCK, "baseFeePerGas": None}))
    with pytest.raises(ChainUnavailableError, match="has no base fee"):
        chain.fees()


@pytest.mark.parametrize(("batch", "sizes"), [(1, []), (3, [3, 3]), (50, [7])])
def test_a_batch_is_what_the_nodes_take(
    node: FakeNode, batch: int, sizes: list[int]
) -> None:
    preflight = client(node, rules=NodeRules(batch)).preflight(
        ADDRESS, calls(1, 2, 3, 4)
    )

    assert preflight.estimates == (257, 258, 259, 260)
    assert node.batches == sizes
    assert len(node.requests) == 7


def test_a_revert_concerns_one_call(node: FakeNode) -> None:
    """It is believed at once: many reverts must not delay the other calls."""
    # The members of a batch are answered from the last to the first.
    node.script("eth_estimateGas", Result("0x3"), REVERT, Result("0x1"))

    preflight = client(node).preflight(ADDRESS, calls(1, 2, 3))

    assert kinds(preflight) == [1, ExecutionRevertedError, 3]
    assert str(preflight.estimates[1]) == "custom error 0x75e91ce7"
    assert len(node.requests) == 6


@pytest.mark.parametrize(
    "fault",
    [Result({"surprise": []}), Result("0xzz"), Result(None), Error(-32603, "no")],
    ids=["object", "no-hex", "null", "error"],
)
def test_a_malformed_estimate_concerns_one_call(node: FakeNode, fault: Reply) -> None:
    node.script("eth_estimateGas", Result("0x3"), fault, Result("0x1"), fault)

    preflight = client(node).preflight(ADDRESS, calls(1, 2, 3))

    assert kinds(preflight)[::2] == [1, 3]
    assert isinstance(preflight.estimates[1], ChainUnavailableError)


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("eth_getTransactionCount", Result("0xzz")),
        ("eth_getTransactionCount", Error(-32602, "invalid block tag")),
        ("eth_getBlockByNumber", Result(None)),
        ("eth_getBlockByNumber", Result({"number": "0x1"})),
        ("eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": 7})),
        ("eth_maxPriorityFeePerGas", Result("-0x1")),
        ("eth_maxPriorityFeePerGas", Error(-32601, "Method not found")),
    ],
)
def test_without_count_or_fees_there_is_no_preflight(
    node: FakeNode, method: str, fault: Reply
) -> None:
    node.script(method, fault)

    with pytest.raises(ChainError):
        client(node).preflight(ADDRESS, calls(1, 2))


def test_a_preflight_of_a_chain_without_base_fee(node: FakeNode) -> None:
    """The tip is the gas price, which takes another request."""
    node.script("eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": None}))
    node.script("eth_maxPriorityFeePerGas", Error(-32601, "Method not found"))
    node.script("eth_gasPrice", Result("0x9"))

    assert client(node).preflight(ADDRESS, calls(1)) == Preflight(
        5, Fees(None, 9), (257,)
    )


def test_a_node_without_batches_gets_single_requests(node: FakeNode) -> None:
    """``test_batches`` has the ways to refuse one."""
    node.script("batch", Error(-32600, "batching is not allowed"))

    assert client(node).preflight(ADDRESS, calls(0)) == Preflight(5, FEES, (256,))


def test_only_missing_members_are_requested_alone(node: FakeNode) -> None:
    answered = b'[{"id": 4, "result": "0x100"}, {"id": 1, "result": "0x5"},'
    node.script("batch", Body(answered + b' {"id": 3, "result": "0x7"}]'))

    assert client(node).preflight(ADDRESS, calls(0)) == Preflight(5, FEES, (256,))
    assert [request.method for request in node.requests[4:]] == ["eth_getBlockByNumber"]


def test_single_requests_end_with_one_that_fails(node: FakeNode) -> None:
    """A node that is down gets no request for each of the other calls."""
    node.script("batch", Body(status=413))
    node.script("eth_estimateGas", Result("0x1"), Drop())

    preflight = client(node).preflight(ADDRESS, calls(*range(20)))

    assert kinds(preflight) == [1, *[ChainUnavailableError] * 19]
    assert len(node.calls("eth_estimateGas")) == 20 + 1 + 2  # With one retry.


def test_single_requests_end_in_time(three_nodes: Three) -> None:
    """Slow nodes without batches answer some of the calls, and not too late."""
    for each in three_nodes:
        script(each).script("batch", Body(status=413))
        each.script("eth_estimateGas", Delay(1.1, Result("0x1")))

    preflight = client(*three_nodes, timeout=2).preflight(ADDRESS, calls(*range(20)))

    assert (preflight.pending_count, preflight.fees) == (5, FEES)
    assert kinds(preflight) == [1, *[CannotAnswerError] * 19]


@pytest.mark.parametrize("fault", [Drop(), Drop(reset=True)])
def test_no_answer_to_a_batch_is_unavailability(node: FakeNode, fault: Reply) -> None:
    node.script("batch", fault)

    with pytest.raises(ChainUnavailableError):
        client(node).preflight(ADDRESS, calls(1))

    assert len(node.requests) % 4 == 0


def test_a_preflight_hears_every_node_about_the_nonce(three_nodes: Three) -> None:
    """A transaction in the pools of two nodes counts, even if one of them is slow."""
    for each in three_nodes:
        script(each)
    late, known = three_nodes[1:]
    late.script("batch", Body(status=413))
    late.script("eth_getTransactionCount", Delay(0.2, Result("0x9")))
    known.script("eth_getTransactionCount", Result("0x9"))

    assert client(*three_nodes).preflight(ADDRESS, calls(1)).pending_count == 9


def test_each_estimate_needs_a_quorum(three_nodes: Three) -> None:
    """Nodes that fail for different calls leave a quorum for the others."""
    failed = [(0,), (0, 1), ()]
    for node, missing in zip(three_nodes, failed, strict=True):
        _script_gaps(script(node), missing)

    preflight = client(*three_nodes).preflight(ADDRESS, calls(0, 1, 2))

    assert kinds(preflight) == [ChainUnavailableError, 257, 258]
    assert "too few" in str(preflight.estimates[0])


def _script_gaps(node: FakeNode, missing: Sequence[int]) -> None:
    gas: list[Reply] = [Result(hex(256 + number)) for number in range(3)]
    for number in missing:
        gas[number] = Result("malformed")
    node.script("eth_estimateGas", *gas[::-1])


def test_one_refund_is_read_from_one_node_at_once(fake_node: FakeNode) -> None:
    """With a chain id to check, the first preflight takes one exchange more."""
    script(fake_node).script("eth_chainId", Result("0x7"))
    chain = client(fake_node, chain_id=7)

    for _ in range(3):
        chain.preflight(ADDRESS, calls(1))

    assert len(fake_node.calls("eth_chainId")) == 1
    assert fake_node.batches == [4, 4, 4]


LIMITED = [replace(CALL, gas=50_000 + number) for number in range(100)]
LIMITS = tuple(call.gas for call in LIMITED)
RETURNED = {"status": "0x1", "returnData": "0x", "gasUsed": "0x1", "logs": []}
FAILED = RETURNED | {"status": "0x0", "error": {"code": 3, "message": "reverted"}}


def _simulated(*results: object) -> Reply:
    return Result([{"number": "0x11", "calls": [*results]}])


def _script_all(node: FakeNode) -> None:
    for method, result in RESULTS.items():
        node.script(method, Result(result))


def test_few_calls_with_a_gas_limit_are_run_alone(fake_node: FakeNode) -> None:
    """Their entry is the limit, whatever the contract returns."""
    _script_all(fake_node)

    found = client(fake_node).preflight(ADDRESS, [*LIMITED[:2], CALL, LIMITED[2]])

    assert found.estimates == (*LIMITS[:2], 4, LIMITS[2])
    assert fake_node.batches == [7]
    runs = fake_node.calls("eth_call")
    assert {(params[0]["gas"], params[1]) for params in runs} == {
        (hex(limit or 0), "latest") for limit in LIMITS[:3]
    }


def test_calls_with_a_gas_limit_are_one_block(fake_node: FakeNode) -> None:
    """One request runs all; the error of one that fails is in its place."""
    _script_all(fake_node)
    fake_node.script(
        "eth_simulateV1", _simulated(*[RETURNED] * 60, FAILED, *[RETURNED] * 39)
    )

    found = client(fake_node).preflight(ADDRESS, [*LIMITED[:50], CALL, *LIMITED[50:]])

    assert found.estimates[50] == 4
    others = [*found.estimates[:50], *found.estimates[51:]]
    assert isinstance(others.pop(60), ExecutionRevertedError)
    assert others == [*LIMITS[:60], *LIMITS[61:]]
    assert fake_node.batches == [4]
    assert not fake_node.calls("eth_call")
    ((simulated, block),) = fake_node.calls("eth_simulateV1")
    assert block == "latest"
    (calls_of_block,) = simulated["blockStateCalls"]
    assert calls_of_block == {
        "calls": [
            {
                "from": ADDRESS,
                "to": ADDRESS,
                "data": "0x01020304",
                "value": "0x0",
                "gas": hex(limit or 0),
            }
            for limit in LIMITS
        ]
    }


@pytest.mark.parametrize(
    "reply",
    [
        Error(-32601, "no such method"),
        Error(-32004, "not supported"),
        Error(-32602, "too many calls"),
        Error(-32603, "method handler crashed"),
        Error(-38015, "block gas limit reached"),
        Error(3, "execution reverted", "0x75e91ce7"),
        Body(b"{", status=200),
        Body(status=503),
        Drop(),
        Result("0x"),
        Result(None),
        Result([]),
        Result([None]),
        Result([{"number": "0x11"}]),
        Result([{"calls": None}]),
        Result([{"calls": [RETURNED] * 4}] * 2),
        _simulated(*[RETURNED] * 3),
        _simulated(*[RETURNED] * 5),
        _simulated(*[RETURNED] * 3, None),
        _simulated(*[RETURNED] * 3, RETURNED | {"status": "0x2"}),
        _simulated(*[RETURNED] * 3, RETURNED | {"status": 1}),
        _simulated(*[RETURNED] * 3, {"returnData": "0x"}),
        _simulated(*[RETURNED] * 3, {"status": "0x1"}),
    ],
)
def test_a_node_without_a_simulation_runs_each_call(
    fake_node: FakeNode, reply: Reply
) -> None:
    """It is not asked for another one for a while."""
    _script_all(fake_node)
    fake_node.script("eth_call", Result("0x03"), REVERT, Result("0x03"))
    fake_node.script("eth_simulateV1", reply)
    chain = client(fake_node)

    found = chain.preflight(ADDRESS, LIMITED[:4]).estimates

    # The members of a batch are answered from the last to the first.
    assert (*found[:2], found[3]) == (*LIMITS[:2], LIMITS[3])
    assert str(found[2]) == "custom error 0x75e91ce7"
    asked = len(fake_node.calls("eth_simulateV1"))
    assert asked == (2 if isinstance(reply, Drop) else 1)
    assert chain.estimate_all(LIMITED[:4]) == [*LIMITS[:4]]
    assert len(fake_node.calls("eth_simulateV1")) == asked


def test_a_simulated_call_with_a_malformed_result_is_an_error(
    fake_node: FakeNode,
) -> None:
    _script_all(fake_node)
    malformed = RETURNED | {"returnData": "what?"}
    fake_node.script("eth_simulateV1", _simulated(malformed, *[RETURNED] * 3))

    found = client(fake_node).estimate_all(LIMITED[:4])

    assert isinstance(found[0], ChainUnavailableError)
    assert found[1:] == [*LIMITS[1:4]]


def test_a_simulation_that_is_too_slow_is_not_tried_again(fake_node: FakeNode) -> None:
    """The calls fail once, and are run alone then."""
    _script_all(fake_node)
    fake_node.script("eth_simulateV1", Delay(2, _simulated()))
    chain = client(fake_node, timeout=0.5)

    with pytest.raises(ChainUnavailableError):
        require(chain.estimate_all(LIMITED[:4])[0])

    assert eventually(lambda: chain.estimate_all(LIMITED[:4]) == [*LIMITS[:4]])
    assert len(fake_node.calls("eth_simulateV1")) == 1


@pytest.mark.parametrize(
    "lie",
    [
        Error(-32601, "no such method"),
        _simulated(*[FAILED] * 4),
        _simulated(*[RETURNED] * 4),
        _simulated(),
    ],
)
def test_a_simulation_needs_a_quorum(three_nodes: Three, lie: Reply) -> None:
    """One node of three decides nothing, whether it lies or has no simulation."""
    for node in three_nodes:
        _script_all(node)
        node.script("eth_call", REVERT)
        node.script("eth_simulateV1", _simulated(RETURNED, RETURNED, FAILED, RETURNED))
    three_nodes[0].script("eth_simulateV1", lie)

    found = client(*three_nodes).preflight(ADDRESS, LIMITED[:4]).estimates

    assert (*found[:2], found[3]) == (*LIMITS[:2], LIMITS[3])
    assert isinstance(found[2], ExecutionRevertedError)


@pytest.mark.parametrize(
    "reply", [Result("what?"), Result(None), Error(-32000, "busy")]
)
def test_a_run_without_a_result_is_an_error(fake_node: FakeNode, reply: Reply) -> None:
    _script_all(fake_node)
    fake_node.script("eth_call", reply)

    found = client(fake_node).preflight(ADDRESS, [replace(CALL, gas=50_000), CALL])

    assert isinstance(found.estimates[0], ChainUnavailableError)
    assert found.estimates[1] == 4

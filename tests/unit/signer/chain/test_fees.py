"""What is offered for gas stays within the network's limits, and is enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.chain.fees import gas_limit, quote, raised
from signer.config.networks import Network
from signer.crypto.transactions import MAX_GAS, Transaction
from signer.ports import Fees
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN


GWEI = 10**9

_prices = st.integers(0, 10**15)
_caps = st.integers(1, 10**6)


def _network(cap: int = 500, priority_cap: int = 50, multiple: int = 2) -> Network:
    return Network.model_validate(
        {
            "chain_id": CHAIN_ID,
            "rpc_urls": ["http://127.0.0.1:8545"],
            "max_fee_per_gas_gwei": cap,
            "max_priority_fee_per_gas_gwei": priority_cap,
            "base_fee_multiple": multiple,
            "tokens": {
                "TUSD": {"address": TOKEN, "decimals": DECIMALS, "max_amount": "10"}
            },
        }
    )


def test_a_quote_is_twice_the_base_fee_and_the_tip() -> None:
    """In calm weather nothing is capped."""
    assert quote(Fees(10 * GWEI, 2 * GWEI), _network()) == (22 * GWEI, 2 * GWEI)


def test_the_multiple_of_the_base_fee_is_the_networks() -> None:
    """A network may offer more room for a rising base fee, or none."""
    fees = Fees(10 * GWEI, 2 * GWEI)

    assert quote(fees, _network(multiple=1)) == (12 * GWEI, 2 * GWEI)
    assert quote(fees, _network(multiple=5)) == (52 * GWEI, 2 * GWEI)


def test_a_quote_outlives_six_full_blocks() -> None:
    """Each full block raises the base fee by an eighth; six are paid for."""
    base = 10 * GWEI

    max_fee, _ = quote(Fees(base, 0), _network())

    assert max_fee >= base * (9 / 8) ** 5


@given(base=_prices, tip=_prices, cap=_caps, priority_cap=st.integers(0, 10**6))
def test_a_quote_never_exceeds_the_caps(
    base: int, tip: int, cap: int, priority_cap: int
) -> None:
    """Whatever the node says: within both caps, and the tip within the fee."""
    max_fee, priority = quote(Fees(base, tip), _network(cap, priority_cap))

    assert 0 <= priority <= max_fee <= cap * GWEI
    assert priority <= min(tip, priority_cap * GWEI)
    assert max_fee in (2 * base + priority, cap * GWEI)


@given(price=_prices, cap=_caps)
def test_a_gas_price_is_the_nodes_up_to_the_cap(price: int, cap: int) -> None:
    """Without EIP-1559 the whole price is bounded, and the tip's cap means nothing."""
    offer = quote(Fees(None, price), _network(cap, priority_cap=0))

    assert offer == (min(price, cap * GWEI),) * 2


@pytest.mark.parametrize(
    ("old", "quoted", "expected"),
    [
        ((80, 8), (0, 0), (90, 9)),
        ((81, 9), (0, 0), (92, 11)),
        ((80, 8), (91, 9), (91, 9)),
        ((80, 8), (90, 10), (90, 10)),
        ((80, 8), (0, 200), (200, 200)),
        ((8, 0), (0, 0), (9, 1)),
        ((0, 0), (0, 0), (1, 1)),
        ((800, 800), (850, 850), (900, 900)),
    ],
    ids=[
        "an eighth",
        "rounded up",
        "the fee of the moment",
        "the tip of the moment",
        "a tip above the fee",
        "no tip",
        "nothing at all",
        "a gas price",
    ],
)
def test_a_replacement_pays_an_eighth_more_or_what_is_asked(
    old: tuple[int, int], quoted: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Both fees rise by 12.5 %, rounded up, and to the moment's at least (R15)."""
    assert raised(*old, quoted, _network()) == expected


@given(
    fees=st.lists(_prices, min_size=2, max_size=2).map(sorted),
    quoted=st.lists(_prices, min_size=2, max_size=2).map(sorted),
    cap=_caps,
)
def test_a_replacement_is_taken_and_within_the_cap(
    fees: list[int], quoted: list[int], cap: int
) -> None:
    """Every node's rule of replacement is met within the cap, or there is none."""
    (old_priority, old_max), (priority, max_fee) = fees, quoted

    offer = raised(old_max, old_priority, (max_fee, priority), _network(cap))

    needed = max(-(-old_max * 9 // 8), old_max + 1, max_fee)
    tip = max(-(-old_priority * 9 // 8), old_priority + 1, priority)
    expected = (max(needed, tip), tip)
    assert offer == (expected if expected[0] <= cap * GWEI else None)


@given(price=_prices, asked=_prices, cap=_caps)
def test_a_raised_gas_price_stays_one_price(price: int, asked: int, cap: int) -> None:
    """What replaces a legacy transaction can be one: both fees stay equal."""
    network = _network(cap)

    offer = raised(price, price, quote(Fees(None, asked), network), network)

    assert offer is None or offer[0] == offer[1]


def test_the_last_replacement_may_reach_the_cap_and_no_more() -> None:
    """At the cap there is an end to replacing, not to sending the same bytes (R17)."""
    network = _network(cap=9)

    assert raised(8 * GWEI, 8, (0, 0), network) == (9 * GWEI, 9)
    assert raised(8 * GWEI + 1, 8, (0, 0), network) is None


@given(estimate=st.integers(1, 2**63))
def test_a_gas_limit_can_always_be_signed(estimate: int) -> None:
    """A quarter more than the estimate, and never more than a transaction may have."""
    limit = gas_limit(estimate)

    assert limit == min(estimate * 5 // 4, MAX_GAS)
    assert Transaction(1, 0, 0, 0, limit, TOKEN, 0, b"").gas == limit

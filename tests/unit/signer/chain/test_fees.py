"""Fee quotes and replacements, within the network's caps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.chain.fees import add_gas_margin, bump_fees, quote_fees
from signer.config.networks import Network
from signer.crypto.transactions import MAX_GAS
from signer.ports.chain import Fees
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


def test_the_base_fee_multiple_is_configurable() -> None:
    """A network may leave more or less room for a rising base fee."""
    fees = Fees(10 * GWEI, 2 * GWEI)

    assert quote_fees(fees, _network()) == (22 * GWEI, 2 * GWEI)
    assert quote_fees(fees, _network(multiple=1)) == (12 * GWEI, 2 * GWEI)

    assert quote_fees(fees, _network(multiple=5)) == (52 * GWEI, 2 * GWEI)


@given(base=_prices, tip=_prices, cap=_caps, priority_cap=st.integers(0, 10**6))
def test_a_quote_never_exceeds_the_caps(
    base: int, tip: int, cap: int, priority_cap: int
) -> None:
    """Max fee and priority fee stay within their caps at any fees of the node."""
    max_fee, priority = quote_fees(Fees(base, tip), _network(cap, priority_cap))

    assert 0 <= priority <= max_fee <= cap * GWEI
    assert priority <= min(tip, priority_cap * GWEI)
    assert max_fee in (2 * base + priority, cap * GWEI)


@given(price=_prices, cap=_caps)
def test_a_gas_price_is_the_nodes_up_to_the_cap(price: int, cap: int) -> None:
    """
    Without EIP-1559 the gas price is capped; the priority fee's cap does not apply.
    """
    quoted = quote_fees(Fees(None, price), _network(cap, priority_cap=0))

    assert quoted == (min(price, cap * GWEI),) * 2


REPLACEMENTS: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "an eighth": ((80, 8), (0, 0), (90, 9)),
    "rounded up": ((81, 9), (0, 0), (92, 11)),
    "the fee of the moment": ((80, 8), (91, 9), (91, 9)),
    "the tip of the moment": ((80, 8), (90, 10), (90, 10)),
    "a tip above the fee": ((80, 8), (0, 200), (200, 200)),
    "no tip": ((8, 0), (0, 0), (9, 1)),
    "nothing at all": ((0, 0), (0, 0), (1, 1)),
    "a gas price": ((800, 800), (850, 850), (900, 900)),
}


@pytest.mark.parametrize(
    ("old", "quoted", "expected"), REPLACEMENTS.values(), ids=REPLACEMENTS
)
def test_a_replacement_pays_an_eighth_more_or_the_current_quote(
    old: tuple[int, int], quoted: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Both fees rise by 12.5 %, rounded up, and at least to the current quote (R15)."""
    assert bump_fees(*old, quoted, _network()) == expected


@given(
    fees=st.lists(_prices, min_size=2, max_size=2).map(sorted),
    quoted=st.lists(_prices, min_size=2, max_size=2).map(sorted),
    cap=_caps,
)
def test_a_replacement_is_accepted_and_within_the_cap(
    fees: list[int], quoted: list[int], cap: int
) -> None:
    """
    It satisfies the replacement rule of every node within the cap, or there is none.
    """
    (old_priority, old_max), (priority, max_fee) = fees, quoted

    bumped = bump_fees(old_max, old_priority, (max_fee, priority), _network(cap))

    needed = max(-(-old_max * 9 // 8), old_max + 1, max_fee)
    tip = max(-(-old_priority * 9 // 8), old_priority + 1, priority)
    expected = (max(needed, tip), tip)
    assert bumped == (expected if expected[0] <= cap * GWEI else None)


@given(estimate=st.integers(1, 2**63))
def test_a_gas_limit_can_always_be_signed(estimate: int) -> None:
    """A quarter more than the estimate, and never above the limit of EIP-7825."""
    limit = add_gas_margin(estimate)

    assert limit == min(estimate * 5 // 4, MAX_GAS)

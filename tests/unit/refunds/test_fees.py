"""What is offered for gas stays within the network's limits, and is enough."""

from hypothesis import given
from hypothesis import strategies as st

from signer.networks import Network
from signer.ports import Fees
from signer.refunds.fees import gas_limit, quote
from signer.transactions import MAX_GAS, Transaction
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN


GWEI = 10**9

_prices = st.integers(0, 10**15)


def _network(cap: int = 500, priority_cap: int = 50) -> Network:
    return Network.model_validate(
        {
            "chain_id": CHAIN_ID,
            "rpc_urls": ["http://127.0.0.1:8545"],
            "max_fee_per_gas_gwei": cap,
            "max_priority_fee_per_gas_gwei": priority_cap,
            "tokens": {
                "TUSD": {"address": TOKEN, "decimals": DECIMALS, "max_amount": "10"}
            },
        }
    )


def test_a_quote_is_twice_the_base_fee_and_the_tip() -> None:
    """In calm weather nothing is capped."""
    assert quote(Fees(10 * GWEI, 2 * GWEI), _network()) == (22 * GWEI, 2 * GWEI)


def test_a_quote_outlives_six_full_blocks() -> None:
    """Each full block raises the base fee by an eighth; six are paid for."""
    base = 10 * GWEI

    max_fee, _ = quote(Fees(base, 0), _network())

    assert max_fee >= base * (9 / 8) ** 5


@given(
    base=_prices,
    tip=_prices,
    cap=st.integers(1, 10**6),
    priority_cap=st.integers(0, 10**6),
)
def test_a_quote_never_exceeds_the_caps(
    base: int, tip: int, cap: int, priority_cap: int
) -> None:
    """Whatever the node says: within both caps, and the tip within the fee."""
    max_fee, priority = quote(Fees(base, tip), _network(cap, priority_cap))

    assert 0 <= priority <= max_fee <= cap * GWEI
    assert priority <= min(tip, priority_cap * GWEI)
    assert max_fee in (2 * base + priority, cap * GWEI)


@given(estimate=st.integers(1, 2**63))
def test_a_gas_limit_can_always_be_signed(estimate: int) -> None:
    """A quarter more than the estimate, and never more than a transaction may have."""
    limit = gas_limit(estimate)

    assert limit == min(estimate * 5 // 4, MAX_GAS)
    assert Transaction(1, 0, 0, 0, limit, TOKEN, 0, b"").gas == limit

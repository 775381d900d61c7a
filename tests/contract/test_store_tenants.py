"""Contract of tenants: blocks, and how many open refunds a tenant may have."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial

import pytest

from backends.sql import SQLStore
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidInputError,
    OpenRefundsLimitError,
    StaleStateError,
    TenantBlockedError,
)
from signer.model.hold import Hold
from signer.model.refund import Status
from signer.refunds.service import RefundService
from tests.fixtures.ledger import (
    accept,
    accepted,
    bound,
    filled,
    now,
    opened,
    queued,
    refund_page,
    reserved,
    save,
    step_to,
)
from tests.fixtures.races import race
from tests.support.ledgers import collected_statements, open_ledger
from tests.support.refunds import ACTOR, REQUEST, World


def test_blocks_are_listed_by_name(store: SQLStore) -> None:
    blocks = [Hold.of_tenant(name, now(), "", "x") for name in ("b", "a", "B")]
    for block in blocks:
        store.begin_hold(block)

    assert [block.tenant for block in store.blocks()] == ["B", "a", "b"]


def test_open_refunds_are_limited(store: SQLStore) -> None:
    """Final refunds and other tenants' do not count; nothing is stored over it."""
    first = accepted(store, tenant="shop")
    accepted(store, tenant="other")
    accepted(store, **bound())
    second, third = queued(tenant="shop"), queued(tenant="shop")

    assert accept(store, second, max_open=2) == (second, True)
    with pytest.raises(OpenRefundsLimitError) as refused:
        accept(store, third, max_open=2)
    assert (refused.value.retry_after, store.get(third.id)) == (30, None)
    assert store.history(third.id) == ()

    save(store, first, step_to(first, Status.CANCELLED, now()))
    assert accept(store, third, max_open=2) == (third, True)


def test_open_refunds_far_below_the_limit_are_counted_once_a_second(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process counts; the last 5,000 refunds are counted one by one."""
    seconds = 0.0
    monkeypatch.setattr("time.monotonic", lambda: seconds)

    def counts(max_open: int) -> int:
        with collected_statements(store) as sent:
            accept(store, queued(tenant="shop"), max_open=max_open)
        return sum("count(" in statement for statement in sent)

    assert [counts(6_000) for _ in range(3)] == [1, 0, 0]
    assert counts(5_000) == 1
    seconds = 1.0
    assert [counts(6_000), counts(6_000)] == [1, 0]


def _accept_ten(store: SQLStore, index: int) -> int:
    granted = 0
    for _ in range(10):
        try:
            granted += accept(store, queued(tenant="shop"), max_open=13)[1]
        except OpenRefundsLimitError:
            continue
    return granted


def test_processes_share_the_limit(database_url: str, store: SQLStore) -> None:
    """Of 40 refunds that four processes accept at once, 13 are stored."""
    assert sum(race(_accept_ten, database_url, 4)) == 13
    assert len(refund_page(store, "shop", limit=100).refunds) == 13


def _reserved_count(store: SQLStore) -> int:
    return len(refund_page(store, "shop", status=Status.RESERVED, limit=1000).refunds)


def _reserve_or_block(store: SQLStore, index: int) -> int:
    """Reserve refunds; process 0 blocks the tenant and counts what is reserved then."""
    if index == 0:
        store.begin_hold(Hold.of_tenant("shop", now(), "", "x"))
        return _reserved_count(store)
    for refund in refund_page(store, "shop", limit=1000).refunds[index - 1 :: 2]:
        # The block came before the transaction, or during it.
        with suppress(TenantBlockedError, StaleStateError):
            reserved(store, refund)
    return 0


def test_no_nonce_after_the_block(database_url: str, store: SQLStore) -> None:
    """When the block returns, no reservation of the tenant is in progress."""
    opened(store)
    filled(store, [queued(tenant="shop") for _ in range(100)])
    at_block, *_ = race(_reserve_or_block, database_url, 3)

    assert at_block == _reserved_count(store)


def test_earlier_refunds_of_other_tenants(store: SQLStore) -> None:
    """The key, then the reference; only of the tenants that are asked about."""
    first = accepted(store, tenant="pod-1")
    second = accepted(store, tenant="pod-2")
    pods = {"pod-1", "pod-2"}
    same = queued(tenant="shop", idempotency_key=second.idempotency_key)
    other_body = replace(same, fingerprint="11" * 32)
    same_reference = queued(tenant="shop", reference=first.reference)

    assert store.find_earlier(queued(tenant="shop"), pods) is None
    assert store.find_earlier(same, pods) == second
    assert store.find_earlier(same, {"pod-1"}) is None
    with pytest.raises(IdempotencyMismatchError, match=second.id):
        store.find_earlier(other_body, pods)
    with pytest.raises(ConflictError, match=first.id):
        store.find_earlier(same_reference, pods)
    with pytest.raises(InvalidInputError):
        store.find_earlier(queued(reference="a\0b"), pods)


def test_of_two_earlier_refunds_the_same_request_is_found(store: SQLStore) -> None:
    """Both pods used the key before they were one tenant."""
    key = {"idempotency_key": "key"}
    accepted(store, tenant="pod-1", fingerprint="11" * 32, **key)
    second = accepted(store, tenant="pod-2", **key)

    found = store.find_earlier(queued(tenant="shop", **key), {"pod-1", "pod-2"})
    assert found == second


@dataclass(frozen=True)
class _SameRequests:
    """Submits each request twice at once, to the service of one process."""

    keys: int

    def __call__(self, store: SQLStore, index: int) -> list[set[str]]:
        pods = Tenant(subjects=("pod-1", "pod-2"))
        service = World(store, tenants=TenantRegistry({"shop": pods})).service
        with ThreadPoolExecutor(2) as pool:
            return [
                set(pool.map(partial(_submit, service), [n, n]))
                for n in range(self.keys)
            ]


def _submit(service: RefundService, n: int) -> str:
    """Submit request *n*; a conflict is an error."""
    name = f"{n}"
    request = replace(REQUEST, payment_session_id=name, reference=name)
    result = service.submit(
        tenant="shop", idempotency_key=name, request=request, actor=ACTOR
    )
    return result.refund.id


@pytest.mark.parametrize(("database", "keys"), [("sqlite", 60), ("postgresql", 150)])
def test_the_same_request_at_once_is_no_conflict(
    database: str, keys: int, request: pytest.FixtureRequest
) -> None:
    """Two processes get each request twice at once: all four get the one refund."""
    url = str(request.getfixturevalue(f"{database}_url"))
    answers = race(_SameRequests(keys), url, 2)

    for same_key in zip(*answers, strict=True):
        assert len(set.union(*same_key)) == 1
    with closing(open_ledger(url)) as store:
        assert len(refund_page(store, "shop", limit=1000).refunds) == keys

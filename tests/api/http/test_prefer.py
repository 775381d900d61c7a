"""How long a response waits: for a worker, for the refund's end, or not at all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.model.refund import Status
from tests.api.service import BODY, Pace
from tests.api.support import bearer, get, post
from tests.fixtures.ledger import refund_page, save, step_to
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.refunds import altered
from tests.support.waiting import eventually


Application = Callable[[int], TestClient]


@pytest.fixture
def refund_path(client: TestClient, pace: Pace) -> str:
    """The path of a refund that waits for a node."""
    path = str(post(client, BODY).headers["location"])
    pace.slept = 0
    return path


@pytest.fixture
def without_worker(paying_container: Container) -> Application:
    """A function that returns an application with so many threads, and no worker."""

    def build(threads: int) -> TestClient:
        worker, settings = paying_container.worker, paying_container.settings
        paying_container.worker = altered(worker, advance=lambda: 0)
        paying_container.settings = settings.model_copy(update={"threads": threads})
        return TestClient(create_app(paying_container))

    return build


def _shown(response: Result) -> tuple[int, str, str | None]:
    """Return the status, that of the refund, and the preference that was applied."""
    applied = response.headers.get("preference-applied")
    return response.status_code, response.json["status"], applied


def test_a_post_waits_for_the_worker(
    paying: TestClient, pace: Pace, node: ScriptedChain
) -> None:
    """Without a preference the response usually has the transaction's hash."""
    answer = post(paying, BODY)

    assert _shown(answer) == (201, "broadcast", None)
    assert [answer.json["tx_hash"]] == list(node.pool)
    assert pace.slept == 0


@pytest.mark.parametrize(
    "preference",
    ["respond-async", "Respond-Async", "foo, respond-async; bar", "respond-async,wait"],
)
def test_a_post_may_not_wait_at_all(
    paying: TestClient,
    pace: Pace,
    node: ScriptedChain,
    paying_container: Container,
    preference: str,
) -> None:
    """The refund is stored and queued; a worker sends it all the same."""
    answer = post(paying, BODY, Prefer=preference)
    asked = node.calls.total()
    paying_container.worker.work()

    assert _shown(answer) == (201, "queued", "respond-async")
    assert (asked, pace.slept) == (0, 0)
    assert get(paying, answer.headers["location"]).json["status"] == "broadcast"


def test_a_wait_is_stronger_than_respond_async(
    client: TestClient, pace: Pace, sqlite_store: SQLStore
) -> None:
    """RFC 7240 leaves it to the server; ``wait`` says for how long it may take."""
    pace.meanwhile = lambda: _refuse_all(sqlite_store, when=pace.slept >= 2)
    answer = post(client, BODY, Prefer="respond-async, wait=10")

    assert _shown(answer) == (201, "refused", "wait=10")


def test_a_wait_for_zero_seconds_does_not_wait(paying: TestClient, pace: Pace) -> None:
    assert _shown(post(paying, BODY, Prefer="wait=0")) == (201, "queued", "wait=0")
    assert pace.slept == 0


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_wait_that_is_not_possible_is_not_applied(
    without_worker: Application, pace: Pace, method: str
) -> None:
    """With one thread the response comes at once, as RFC 7240 allows."""
    client = without_worker(1)
    posted = post(client, BODY, Prefer="wait=10")
    if method == "POST":
        answer = posted
    else:
        headers = bearer() | {"Prefer": "wait=10"}
        answer = client.simulate_get(posted.headers["location"], headers=headers)

    assert _shown(answer) == (201 if method == "POST" else 200, "queued", None)
    assert pace.slept == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_one_thread_never_waits(
    without_worker: Application,
    pace: Pace,
    paying_container: Container,
    threads: int,
) -> None:
    """The others wait for a worker; it answers at once, also cancellations."""
    client = without_worker(threads)
    waits = paying_container.refunds._waits
    last = Event()
    pace.meanwhile = partial(last.wait, 10)
    with ThreadPoolExecutor(threads) as pool:
        waiting = [
            pool.submit(post, client, BODY | {"reference": f"waits-{number}"})
            for number in range(threads - 1)
        ]
        assert eventually(lambda: len(waits._waits) == threads - 1)
        posted = post(client, BODY | {"reference": "last"})
        path = f"{posted.headers['location']}/cancel"
        cancelled = client.simulate_post(path, headers=bearer())
        still_waiting = not any(each.done() for each in waiting)
        last.set()

    assert still_waiting
    assert [_shown(each) for each in (posted, cancelled)] == [
        (201, "queued", None),
        (202, "queued", None),
    ]
    assert [_shown(each.result()) for each in waiting] == [(201, "queued", None)] * (
        threads - 1
    )


def _refuse_all(store: SQLStore, *, when: bool = True) -> None:
    for refund in refund_page(store, "gateway-1").refunds:
        if when and refund.status is Status.QUEUED:
            save(store, refund, step_to(refund, Status.REFUSED, refund.updated_at))


def test_a_post_waits_for_a_final_status(
    client: TestClient, pace: Pace, sqlite_store: SQLStore
) -> None:
    """A repeated request gets the same answer."""
    pace.meanwhile = lambda: _refuse_all(sqlite_store, when=pace.slept >= 2)
    answer = post(client, BODY, Prefer="wait=10", Idempotency_Key="k")
    replayed = post(client, BODY, Idempotency_Key="k")

    assert (answer.status_code, answer.json["status"]) == (201, "refused")
    assert answer.headers["preference-applied"] == "wait=10"
    assert 2 <= pace.slept < 3
    assert replayed.content == answer.content


def test_a_get_waits_for_a_final_status(
    client: TestClient, refund_path: str, pace: Pace, sqlite_store: SQLStore
) -> None:
    pace.meanwhile = lambda: _refuse_all(sqlite_store, when=pace.slept >= 2)
    headers = bearer() | {"Prefer": "wait=10"}
    answer = client.simulate_get(refund_path, headers=headers)

    assert (answer.status_code, answer.json["status"]) == (200, "refused")
    assert answer.headers["preference-applied"] == "wait=10"


@pytest.mark.parametrize(
    ("preference", "slept"),
    [
        ("wait=3", 3),
        ("wait=20", 20),
        ("wait=600", 20),
        ("wait=999999", 20),
        ("WAIT = 3", 3),
        ('wait="3"', 3),
        ("respond-async, wait=3; foo", 3),
        ('return=minimal, foo="a,b;c"; d="e,f", wait=3', 3),
        ("wait=0", 0),
        # RFC 7240: the second is ignored, and it is no error.
        ("wait=1, wait=2", 1),
        ("wait=0,Wait=2", 0),
    ],
)
def test_waits_at_most_twenty_seconds(
    client: TestClient, refund_path: str, pace: Pace, preference: str, slept: int
) -> None:
    headers = bearer() | {"Prefer": preference}
    answer = client.simulate_get(refund_path, headers=headers)

    assert (answer.status_code, answer.json["status"]) == (200, "queued")
    assert answer.headers["preference-applied"] == f"wait={slept}"
    assert slept <= pace.slept < slept + 0.3


def test_other_preferences_are_ignored(
    client: TestClient, refund_path: str, pace: Pace
) -> None:
    """RFC 7240: an unknown preference is no error, and is not reported as applied."""
    for preference in (
        *("", "respond-async", "wait", "wait=", "wait=-1", "wait=1.5", "wait=1h"),
        *("waits=1", "wait=x, wait=2"),
    ):
        headers = bearer() | {"Prefer": preference}
        answer = client.simulate_get(refund_path, headers=headers)

        assert answer.status_code == 200
        assert "preference-applied" not in answer.headers
    assert pace.slept == 0


@pytest.mark.parametrize(
    "preference",
    [
        "return=minimal",
        'return=minimal; foo="some, wait=20"',
        'foo="a, respond-async, wait=20", bar',
        'foo="\\", wait=20',
        'foo="wait=20, wait=20',
        "respond-async=yes",
    ],
)
def test_a_post_ignores_preferences_that_it_does_not_know(
    paying: TestClient, pace: Pace, preference: str
) -> None:
    """Nor does it read a quoted string as preferences."""
    assert _shown(post(paying, BODY, Prefer=preference)) == (201, "broadcast", None)
    assert pace.slept == 0


def test_a_final_refund_is_returned_at_once(
    client: TestClient, refund_path: str, pace: Pace, sqlite_store: SQLStore
) -> None:
    _refuse_all(sqlite_store)
    headers = bearer() | {"Prefer": "wait=20"}
    answer = client.simulate_get(refund_path, headers=headers)

    assert answer.json["status"] == "refused"
    assert pace.slept == 0

"""The page of webhooks: what waits, which event, and how it is sent again."""

from backends.sql import SQLStore
from tests.api.browser import Browser
from tests.extras.console.worlds import SHOP, World
from tests.fixtures.ledger import forge


def _page(world: World) -> str:
    browser = Browser(world.client)
    assert browser.log_in().status_code == 303
    return browser.get("/console/webhooks").text


def test_an_event_is_shown_with_its_type(sqlite_store: SQLStore) -> None:
    """In both lists, with the problem and the way to send it again."""
    world = World(sqlite_store)
    event_id = world.given_up(problem="status-503")
    page = _page(world)
    _, given_up, newest = page.split("<h2")

    for part in (given_up, newest):
        assert "refund.accepted" in part
        assert event_id in part
        assert "status-503" in part
    assert f'href="/console/changes/replay-event?event_id={event_id}"' in newest
    assert f"Send all of {SHOP} again" in given_up


def test_an_event_of_another_program_is_marked(sqlite_store: SQLStore) -> None:
    """Its type is not shown: the event is not authentic."""
    world = World(sqlite_store)
    world.given_up()
    forge(
        sqlite_store,
        "INSERT INTO webhook_deliveries SELECT 'evt_forged', tenant, refund_id, 9,"
        " 'pending', 0, due_at, NULL, updated_at, 0 FROM webhook_deliveries",
    )
    page = _page(world)

    assert page.count("not authentic") == 1
    assert "evt_forged" in page

"""The console with the database role of administrators, as in production."""

from falcon.testing import TestClient

from api.http.app import create_app
from tests.api.administrators import authorized
from tests.api.browser import PATHS, Browser, build_console, new_token
from tests.api.forms import find_form
from tests.api.support import SettableClock
from tests.fixtures.ledger import accepted
from tests.fixtures.roles import Processes


def test_the_role_suffices(processes: Processes, clock: SettableClock) -> None:
    """Every page, a decision and a cancellation: it needs no grant of its own."""
    refund = accepted(processes.stores["refunds"])
    client = TestClient(create_app(build_console(processes.stores["admin"], clock)))
    for path in ("stop", "resume"):
        answer = client.simulate_post(
            f"/v1/admin/{path}",
            json={"reason": "a test"},
            headers=authorized(scope="signing:stop", sub="carol"),
        )
    browser = Browser(client)
    browser.log_in()
    shown = [
        browser.get(path).status_code
        for path in (
            *PATHS,
            f"/console/refunds/{refund.id}",
            "/console/refunds?q=order",
        )
    ]
    given = {
        "form": browser.form_token(),
        "digest": answer.json["digest"],
        "reason": "checked",
    }
    confirmed = browser.submit("/console/changes/approve/confirm", given)
    fields = find_form(confirmed.text, "/console/changes/approve/make").fields
    fields["token"] = new_token(scope="approvals:decide")

    assert set(shown) == {200}
    assert browser.submit("/console/changes/approve/make", fields).status_code == 200

    given = {
        "form": browser.form_token(),
        "refund_id": refund.id,
        "reason": "checked",
    }
    confirmed = browser.submit("/console/changes/cancel-refund/confirm", given)
    fields = find_form(confirmed.text, "/console/changes/cancel-refund/make").fields
    fields["token"] = new_token(scope="refunds:write")
    made = browser.submit("/console/changes/cancel-refund/make", fields)
    assert made.status_code == 200
    cancelled = processes.stores["admin"].get(refund.id)
    assert cancelled is not None
    assert cancelled.cancel_requested_at is not None

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
    paths = (*PATHS, f"/console/refunds/{refund.id}", "/console/refunds?q=order")
    shown = {browser.get(path).status_code for path in paths}

    def made(name: str, scope: str, **values: str) -> int:
        path = f"/console/changes/{name}"
        given = {"form": browser.form_token(), "reason": "checked", **values}
        confirmed = browser.submit(f"{path}/confirm", given)
        fields = find_form(confirmed.text, f"{path}/make").fields
        fields["token"] = new_token(scope=scope)
        return browser.submit(f"{path}/make", fields).status_code

    decision = {"digest": answer.json["digest"], "signature": ""}
    assert shown == {200}
    assert made("approve", "approvals:decide", **decision) == 200
    assert made("cancel-refund", "refunds:write", refund_id=refund.id) == 200
    cancelled = processes.stores["admin"].get(refund.id)
    assert cancelled is not None
    assert cancelled.cancel_requested_at is not None

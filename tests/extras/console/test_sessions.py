"""Sessions: who gets one, what it allows, and for how long."""

import base64
import itertools
import json
from typing import get_args

from falcon.inspect import inspect_routes
from falcon.testing import TestClient

from api.actions import catalogue
from api.auth.jwt_verifier import Role as TokenRole
from api.container import Container
from api.extras.console import is_console
from api.extras.console.sessions import (
    LOCAL_NAME,
    SECURE_NAME,
    SESSION_LIFETIME,
    Sessions,
)
from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.settings import Role
from signer.model.transaction import EPOCH
from signer.row_macs import RowMACs
from tests.api.browser import PATHS, READ, Browser, new_token
from tests.api.support import SettableClock
from tests.support.ledgers import ROW_MACS


_CODE = "limit-reached"

PAGES = [
    *PATHS,
    f"/console/refunds/rf_{'0' * 32}",
    "/console/refunds/export",
    f"/console/approvals/{'0' * 64}",
    "/console/codes/limit-reached",
]
PAGES += [f"/console/changes/{each.name}" for each in catalogue.FORMS]
FORMS = [
    "/console/logout",
    *(f"/console/changes/{each.name}/confirm" for each in catalogue.FORMS),
    *(f"/console/changes/{each.name}/make" for each in catalogue.FORMS),
    "/console/audit/export",
]


PUBLIC = ["/console/login", "/console/console.css", "/console/icon.svg"]


def _records(store: SQLStore) -> list[str]:
    rows = store._database.run(
        lambda c: c.exec_driver_sql("SELECT body FROM audit_records ORDER BY id").all()
    )
    return [str(body) for (body,) in rows]


def test_every_route_is_listed_here(client: TestClient) -> None:
    """All pages and forms but the login need a session."""
    found = {
        route.path.format(refund_id=f"rf_{'0' * 32}", digest="0" * 64, code=_CODE)
        for route in inspect_routes(client.app)
        if is_console(route.path)
    }

    assert found == {*PAGES, *FORMS, *PUBLIC}


def test_a_process_that_serves_refunds_has_no_console(container: Container) -> None:
    settings = container.settings
    container.settings = settings.model_copy(update={"serve_role": Role.REFUNDS})
    client = TestClient(create_app(container))

    for path in (*PAGES, *PUBLIC):
        assert client.simulate_get(path).status_code == 404


def test_a_token_starts_a_session(client: TestClient) -> None:
    browser = Browser(client)
    answer = browser.log_in()
    cookie = answer.cookies[SECURE_NAME]

    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    assert (cookie.secure, cookie.http_only, cookie.path) == (True, True, "/")
    assert (cookie.same_site, cookie.domain or None) == ("Strict", None)
    assert cookie.max_age == SESSION_LIFETIME.total_seconds()
    assert browser.get("/console").status_code == 200


def test_the_longest_session_fits_in_a_cookie(client: TestClient) -> None:
    """A browser drops more than 4,096 octets; a token's claims have their lengths."""
    characters = [chr(each) for each in range(33, 127) if chr(each) not in '"\\']
    pairs = (a + b for a in characters for b in characters)
    shortest = itertools.chain(characters, pairs)  # The most quotes and commas.
    scopes = [READ, *itertools.islice(shortest, 368)]
    longest = {"sub": "s" * 128, "roles": [*get_args(TokenRole)]}
    browser = Browser(client)

    refused = browser.log_in(scope=" ".join([*scopes, "last"]), **longest)
    cookie = browser.log_in(scope=" ".join(scopes), **longest).cookies[SECURE_NAME]

    assert refused.status_code == 401
    assert 3_000 < len(SECURE_NAME) + len(cookie.value) <= 4_096


def test_a_login_is_on_record(browser: Browser, sqlite_store: SQLStore) -> None:
    payload = browser.session.rpartition(".")[0]
    session_id = json.loads(base64.urlsafe_b64decode(payload))["id"]
    (record,) = _records(sqlite_store)
    found = json.loads(record)

    assert (found["event"], found["actor"]) == ("admin-access-succeeded", "token:alice")
    assert found["details"]["session"] == session_id
    assert browser.session not in record


def test_without_a_record_there_is_no_session(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    sqlite_store._database.write(
        lambda c: (
            c.exec_driver_sql(
                "CREATE TRIGGER trouble BEFORE INSERT ON audit_records"
                " BEGIN SELECT RAISE(ABORT, 'no'); END"
            ).rowcount
        )
    )
    answer = Browser(client).log_in()

    assert answer.status_code == 503
    assert "set-cookie" not in answer.headers


def test_a_token_starts_one_session(client: TestClient) -> None:
    used = new_token()
    first = Browser(client).submit("/console/login", {"token": f" {used}\n"})
    second = Browser(client).submit("/console/login", {"token": used})

    assert (first.status_code, second.status_code) == (303, 401)
    assert "set-cookie" not in second.headers


def test_other_tokens_start_none(client: TestClient, sqlite_store: SQLStore) -> None:
    refused: list[dict[str, object]] = [
        {"roles": ["merchant"]},
        {"roles": []},
        {"scope": "keys:read"},
        {"scope": ...},
    ]
    for claims in refused:
        answer = Browser(client).log_in(**claims)

        assert answer.status_code == 403, claims
        assert "set-cookie" not in answer.headers
    records = _records(sqlite_store)
    assert len(records) == len(refused)
    for record in records:
        assert "admin-access-refused" in record
        assert "token:alice" in record


def test_no_token_starts_none(client: TestClient) -> None:
    for text in ("", "abc", "a.b.c"):
        answer = Browser(client).submit("/console/login", {"token": text})

        assert answer.status_code == 401, text
        assert "set-cookie" not in answer.headers


def test_without_a_session_there_is_only_the_login(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    """It is no refusal: every administrator begins like this."""
    browser = Browser(client)
    answers = [browser.get(path) for path in PAGES]
    answers += [browser.submit(path, {}) for path in FORMS]

    assert {each.status_code for each in answers} == {303}
    assert {each.headers["location"] for each in answers} == {"/console/login"}
    assert {each.text for each in answers} == {""}
    assert _records(sqlite_store) == []


def _forged(text: str) -> list[str]:
    payload, _, mac = text.rpartition(".")
    facts = json.loads(base64.urlsafe_b64decode(payload))
    longer = base64.urlsafe_b64encode(
        json.dumps({**facts, "exp": facts["exp"] + 9}).encode()
    ).decode()
    key_id = mac.partition(":")[0]
    return [
        "x",
        ".",
        payload,
        f"{longer}.{mac}",
        f"{payload}.{mac[:-1]}{'0' if mac[-1] != '0' else '1'}",
        f"{payload}.{key_id}:",
        f"{payload}.other:{'0' * 64}",
        "a" * 5000,
    ]


def test_a_forged_session_sees_nothing(
    browser: Browser, sqlite_store: SQLStore
) -> None:
    """The first one on no page, and the others not on the one that says most."""
    first, *others = _forged(browser.session)
    browser.cookies[SECURE_NAME] = first
    answers = [browser.get(path) for path in PAGES]
    answers += [browser.submit(path, {}) for path in FORMS]
    for each in others:
        browser.cookies[SECURE_NAME] = each
        answers.append(browser.get("/console"))

    for answer in answers:
        assert answer.status_code == 401
        assert "alice" not in answer.text
        assert '<nav aria-label="Pages">' not in answer.text
    found = [each for each in _records(sqlite_store) if "session-invalid" in each]
    assert len(found) > 1


def test_a_session_of_another_key_sees_nothing(
    browser: Browser, container: Container
) -> None:
    other = Sessions(RowMACs({"tests": b"\x09" * 32}), container.clock)
    caller = container.authenticator.authenticate(f"Bearer {new_token()}")
    browser.cookies[SECURE_NAME] = other.start(caller)[1]

    assert browser.get("/console").status_code == 401


def test_the_text_of_a_form_is_no_session(browser: Browser) -> None:
    """Each purpose has MACs of its own."""
    session_id = json.loads(
        base64.urlsafe_b64decode(browser.session.rpartition(".")[0])
    )["id"]
    mac = ROW_MACS.mac_of_text("console form", session_id)
    browser.cookies[SECURE_NAME] = f"{session_id}.{mac}"

    assert browser.get("/console").status_code == 401


def test_a_genuine_session_without_the_permission_sees_nothing(
    browser: Browser, container: Container
) -> None:
    """The permission is checked at each request, and not at the login only."""
    sessions = Sessions(ROW_MACS, container.clock)
    refused: list[dict[str, object]] = [
        {"roles": ["merchant"], "scope": READ},
        {"roles": ["admin"], "scope": "keys:read"},
        {"roles": ["admin"], "scope": ...},
    ]
    for claims in refused:
        caller = container.authenticator.authenticate(f"Bearer {new_token(**claims)}")
        browser.cookies[SECURE_NAME] = sessions.start(caller)[1]
        answer = browser.get("/console/keys")

        assert answer.status_code == 403, claims
        assert "<table>" not in answer.text


def test_a_session_ends(browser: Browser, clock: SettableClock) -> None:
    clock.advance(SESSION_LIFETIME.total_seconds() - 1)
    assert browser.get("/console/keys").status_code == 200

    clock.advance(1)
    answer = browser.get("/console/keys")
    assert (answer.status_code, answer.text) == (303, "")


def test_logging_out_forgets_the_session(browser: Browser) -> None:
    answer = browser.submit("/console/logout", {"form": browser.form_token()})

    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")
    cookie = answer.cookies[SECURE_NAME]
    assert (cookie.value, cookie.secure, cookie.expires) == ("", True, EPOCH)
    assert browser.get("/console").headers["location"] == "/console/login"


def test_a_browser_on_this_machine_needs_no_https(client: TestClient) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        browser = Browser(client, host)
        cookie = browser.log_in().cookies[LOCAL_NAME]

        assert (cookie.secure, cookie.http_only) == (False, True), host
        assert browser.get("/console/keys").status_code == 200


def test_two_cookies_are_none(browser: Browser, client: TestClient) -> None:
    both = f"{SECURE_NAME}={browser.session}; {SECURE_NAME}={browser.session}"
    answer = client.simulate_get(
        "/console/keys", headers={"Cookie": both}, host="hotwallet.example"
    )

    assert answer.status_code == 303


def test_a_session_is_no_token(browser: Browser, client: TestClient) -> None:
    """The API reads no cookies, and the console no ``Authorization``."""
    api = client.simulate_get("/v1/admin/keys", cookies=browser.cookies)
    console = client.simulate_get(
        "/console/keys", headers={"Authorization": f"Bearer {new_token()}"}
    )

    assert api.status_code == 401
    assert console.status_code == 303


def test_reading_is_limited_per_subject(browser: Browser) -> None:
    """As in the API: 300 in a minute, counted with the reads of the API."""
    statuses = [browser.get("/console/keys").status_code for _ in range(301)]

    assert statuses == [200] * 300 + [429]

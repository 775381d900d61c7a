"""What no action does: the same code by API, command and console."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from api.actions.catalogue import FORMS
from tests.api.actions.cases import CASES
from tests.api.actions.surfaces import Surfaces
from tests.extras.console.worlds import WHY, World
from tests.support.ledgers import copy_ledger, open_ledger
from tests.support.ring import NEW


NAMED = {each.name: each for each in FORMS}

STRANGER = "0x" + "1" * 40
ACTIVE = "the active key"

# The forms of the console offer networks and tokens to choose from.
CHOSEN = "invalid-input"

REFUSED: list[tuple[str, dict[str, str], int, str, str | None]] = [
    *(
        (action, fields, 404, "not-found", CHOSEN)
        for action in ("stop", "resume")
        for fields in (
            {"network": "mainnet", "asset": ""},
            {"network": "local", "asset": "USDX"},
            {"network": "chain:mainnet", "asset": ""},
            {"network": "chain:", "asset": ""},
            {"network": "chain:--7", "asset": ""},
        )
    ),
    ("block-tenant", {"tenant": "another"}, 404, "not-found", None),
    ("unblock-tenant", {"tenant": "another"}, 404, "not-found", None),
    *(
        (action, {"address": address}, status, code, None)
        for action in ("revoke-key", "reinstate-key", "sweep-key")
        for address, status, code in (
            ("0x12", 400, "invalid-input"),
            ("1234abcd-12ab-34cd-56ef-1234567890ab", 400, "invalid-input"),
            (ACTIVE, 409, "conflict"),
        )
    ),
    ("revoke-key", {"address": STRANGER}, 404, "not-found", None),
    ("reinstate-key", {"address": STRANGER}, 404, "not-found", None),
    ("sweep-key", {"address": STRANGER}, 409, "conflict", None),
    ("replay-event", {"event_id": "evt_1"}, 404, "not-found", None),
    ("cancel-refund", {"refund_id": "rf_1"}, 404, "not-found", None),
    *(
        (action, {"digest": digest}, status, code, None)
        for action in ("approve", "reject", "break-glass")
        for digest, status, code in (
            ("12", 400, "invalid-input"),
            ("0" * 64, 404, "not-found"),
        )
    ),
    (
        "rotate-key",
        {"key_id": "no-key", "active_address": ACTIVE},
        503,
        "new-key-unhealthy",
        None,
    ),
    ("fail-over", {"key_id": NEW}, 404, "not-found", None),
]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[World]:
    """One service, which no test here changes."""
    path = copy_ledger(_sqlite_template, tmp_path_factory.mktemp("refusals") / "all.db")
    with closing(open_ledger(f"sqlite:///{path}")) as store:
        yield World(store)


@pytest.mark.parametrize(("name", "fields", "status", "code", "of_console"), REFUSED)
def test_a_refusal(
    world: World,
    surfaces: Surfaces,
    name: str,
    fields: dict[str, str],
    status: int,
    code: str,
    of_console: str | None,
) -> None:
    """Nothing is changed, also not by a dry run, and no secret is repeated."""
    action = NAMED[name]
    texts = {**{each.name: "" for each in action.fields}, "reason": WHY}
    for field, text in fields.items():
        texts[field] = world.old.address if text is ACTIVE else text
    before = CASES[name].state(world)
    answer = surfaces.answer(world, action, texts)
    planned = surfaces.command(world, action, texts, "--dry-run")
    finished = surfaces.command(world, action, texts)
    given = {"form": world.browser.form_token(), **texts}
    page = world.browser.submit(f"/console/changes/{name}/confirm", given)
    if page.status_code == 200:  # Only the attempt shows it.
        page = world.make(action, texts)

    assert (answer.status_code, answer.json["code"]) == (status, code)
    for each in (planned, finished):
        assert (each.status, each.out) == (1, "")
        assert f"error: {code}: " in each.err
        assert "Traceback" not in each.err
    assert page.status_code >= 400
    assert (of_console or code) in page.text
    assert "Nothing was changed" in page.text or status == 503
    for text in (answer.text, finished.err):
        assert "1234abcd-12ab" not in text
    assert CASES[name].state(world) == before

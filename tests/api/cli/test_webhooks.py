"""``hotwallet webhooks`` and ``hotwallet listen``."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.server.webhook_listener import WebhookListener
from backends.sql import SQLStore
from signer.config.settings import Settings
from signer.model.event import DeliveryState
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryAttempt, DeliveryFilter
from signer.webhooks.signatures import Secret, read_private_keys, sign
from tests.api.commands import Run
from tests.fixtures.ledger import accepted, forge, later


TENANTS = """
[tenants.shop]
subjects = ["shop-1"]

[tenants.shop.webhook]
url = "http://127.0.0.1:{port}/"

[tenants.other]
subjects = ["other"]
"""


@pytest.fixture
def messages() -> list[dict[str, object]]:
    return []


@pytest.fixture
def refusals() -> list[str]:
    return []


@pytest.fixture
def listener(
    tmp_path: Path, messages: list[dict[str, object]], refusals: list[str]
) -> Iterator[WebhookListener]:
    """A listener that knows the key of the service."""
    from api.key_files import open_public_keys  # noqa: PLC0415

    settings = Settings.from_env(
        {"APP_ENV": "test", "HOTWALLET_HOME": str(tmp_path / "home")}
    )
    server = WebhookListener(
        0,
        open_public_keys(settings),
        utc_now,
        receive=messages.append,
        refuse=refusals.append,
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(
    run: Run,
    listener: WebhookListener,
    networks: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    networks()
    path = tmp_path / "tenants.toml"
    path.write_text(TENANTS.format(port=listener.port), encoding="utf-8")
    monkeypatch.setenv("TENANTS_FILE", str(path))
    monkeypatch.setenv("HOTWALLET_HOME", str(tmp_path / "home"))
    return run


def test_a_test_event(
    run: Run, messages: list[dict[str, object]], refusals: list[str]
) -> None:
    """It is signed like every other one, and reported."""
    assert run("webhooks", "test", "shop").out == "shop: accepted\n"
    document = run("webhooks", "test", "shop", "--json").json

    assert [each["type"] for each in messages] == ["webhook.test"] * 2
    assert document == {"tenant": "shop", "id": messages[1]["id"], "problem": None}
    assert refusals == []


def test_a_test_that_fails(
    run: Run, listener: WebhookListener, refusals: list[str]
) -> None:
    """Of a receiver with another key; a tenant without a webhook is an error."""
    listener._keys = [Secret.generate()]
    failed = run("webhooks", "test", "shop")
    unknown = run("webhooks", "test", "other")

    assert (failed.status, failed.out) == (1, "shop: not accepted: status-401\n")
    assert refusals == ["no signature is valid"]
    assert unknown.status == 1
    assert "no webhook for the tenant 'other'" in unknown.err


def test_deliveries_are_listed(run: Run, sqlite_store: SQLStore) -> None:
    """With their problem; `--dead` and `--pending` select."""
    assert run("webhooks", "list").out == "nothing waits\n"
    refund = accepted(sqlite_store, tenant="shop")
    sqlite_store.sequence_events(9, utc_now(), lambda _: True)
    (due,) = sqlite_store.claim_deliveries({"shop": 1}, 1, later(1), later(60))
    attempt = DeliveryAttempt(
        due.delivery, DeliveryState.PENDING, later(30), "status-503"
    )
    sqlite_store.record_attempts([attempt], utc_now())
    listed = run("webhooks", "list", "--pending")
    (delivery,) = run("webhooks", "list", "--json").json["deliveries"]
    (tenant,) = run("webhooks", "list", "--json").json["tenants"]

    id_ = due.delivery.event_id
    assert listed.out == (
        "shop: 1 pending, 1 of them failing, 0 given up\n"
        f"{id_} shop refund.accepted {refund.id}: pending, 1 attempts (status-503)\n"
    )
    assert {name: delivery[name] for name in ("id", "state", "problem")} == {
        "id": id_,
        "state": "pending",
        "problem": "status-503",
    }
    assert (tenant["tenant"], tenant["failing"]) == ("shop", 1)
    assert run("webhooks", "list", "--dead").out.count("\n") == 1
    assert run("webhooks", "list", "--dead", "--pending").status == 2


def test_rows_of_another_program_are_shown_as_such(
    run: Run, sqlite_store: SQLStore
) -> None:
    accepted(sqlite_store, tenant="shop")
    sqlite_store.sequence_events(9, utc_now(), lambda _: True)
    forge(sqlite_store, "UPDATE webhook_deliveries SET tenant = char(27) || 'x'")
    out = run("webhooks", "list").out

    assert "not authentic" in out
    assert "\x1b" not in out


def test_several_events_are_repeated(run: Run, sqlite_store: SQLStore) -> None:
    """A part of the ids may be unknown, or of a tenant without a webhook."""
    for tenant in ("shop", "other"):
        accepted(sqlite_store, tenant=tenant)
    sqlite_store.sequence_events(9, utc_now(), lambda _: False)
    (ours, _), *_ = sqlite_store.events("shop", 0, 9, utc_now()).events
    (others, _), *_ = sqlite_store.events("other", 0, 9, utc_now()).events
    partly = run("webhooks", "replay", ours.id, "evt_none", "--json")
    refused = run("webhooks", "replay", others.id, "evt_none", "--json")

    assert partly.status == 1
    assert partly.json == {"replayed": [ours.id], "missing": ["evt_none"]}
    assert refused.status == 1
    assert f"'{others.id}', 'evt_none': no such event of a tenant" in refused.err
    pending = sqlite_store.deliveries(9, DeliveryFilter(state=DeliveryState.PENDING))
    assert [row.event_id for row, _ in pending] == [ours.id]
    assert run("webhooks", "replay").status == 2


def test_what_was_given_up_is_repeated_in_steps(
    run: Run, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until nothing of the tenant is left."""
    monkeypatch.setattr("signer.webhooks.delivery_admin.MAX_DEAD", 1)
    for _ in range(2):
        accepted(sqlite_store, tenant="shop")
    sqlite_store.sequence_events(9, utc_now(), lambda _: True)
    due = sqlite_store.claim_deliveries({"shop": 2}, 2, later(1), later(60))
    sqlite_store.record_attempts(
        [
            DeliveryAttempt(each.delivery, DeliveryState.DEAD, utc_now(), "unreachable")
            for each in due
        ],
        utc_now(),
    )

    assert run("webhooks", "replay-dead", "shop").out == "shop: 2 due now\n"
    assert run("webhooks", "replay-dead", "shop", "--json").json == {
        "tenant": "shop",
        "count": 0,
    }
    assert run("webhooks", "replay-dead", "other").status == 1


def test_a_key(run: Run, tmp_path: Path) -> None:
    """Created, added, and never overwritten."""
    out = tmp_path / "webhook.key"
    created = run("webhooks", "key", "--out", str(out))
    added = run("webhooks", "key", "--out", str(out), "--add", "--json").json
    again = run("webhooks", "key", "--out", str(out))

    assert re.search(r"created the key [0-9a-f]{16} in .*: whpk_", created.out)
    assert added["publicKey"] == read_private_keys(out)[0].public.format()
    assert len(read_private_keys(out)) == 2
    assert again.status == 1
    assert run("webhooks", "key", "--out", "/no/such/folder/key").status == 1


def test_only_a_worker_needs_the_keys(run: Run, tmp_path: Path) -> None:
    """It does not start without them; the commands of operators run anywhere."""
    path = tmp_path / "tenants.toml"
    secret = f'secret_file = "{tmp_path / "missing"}"\n\n[tenants.other]'
    text = path.read_text(encoding="utf-8").replace("\n[tenants.other]", secret)
    path.write_text(text, encoding="utf-8")
    refused = run("worker", "--once")

    assert refused.status == 78
    assert "webhooks-misconfigured" in refused.err
    assert "secret_file of shop" in refused.err
    assert run("tenants", "list").status == 0
    assert run("webhooks", "list").status == 0


def _listen(*options: str, environ: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "api.cli", "listen", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )


def test_listen_prints_verified_events(tmp_path: Path) -> None:
    """And refuses others; with `--count` it ends after the last response."""
    from backends.webhook_client import WebhookClient  # noqa: PLC0415
    from signer.webhooks.endpoint import LOOPBACK  # noqa: PLC0415

    secret = Secret.generate()
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text(secret.format(), encoding="ascii")
    environ = {"APP_ENV": "test", "HOTWALLET_HOME": str(tmp_path)}
    message = {
        "id": "evt_1",
        "type": "refund.confirmed",
        "timestamp": "2026-01-02T03:04:05.000000Z",
        "data": {"id": "rf_1", "amount": "12.50", "token": "T\x1b"},
    }
    body = json.dumps(message).encode()
    client = WebhookClient(LOOPBACK, allow_http=True)
    options = ("--secret-file", str(path), "--count", "1")
    with _listen(*options, environ=environ) as listening:
        assert listening.stderr is not None
        url = listening.stderr.readline().split()[-1]
        wrong = sign([Secret.generate()], "evt_1", utc_now(), body)
        assert client.send(url, wrong, body) == "status-401"
        large = b" " * 300_000
        right = sign([secret], "evt_1", utc_now(), body)
        assert client.send(url, right, large) == "status-413"
        assert client.send(url, right, body) is None
        out, err = listening.communicate(timeout=20)

    assert listening.returncode == 0
    assert out == (
        "2026-01-02T03:04:05.000000Z refund.confirmed rf_1 12.50 'T\\x1b'"
        " (evt_1, verified)\n"
    )
    assert err == "refused: no signature is valid\n"


def test_listen_with_mistakes(
    run: Run, tmp_path: Path, listener: WebhookListener
) -> None:
    """A port in use, a file without keys, and no key at all."""
    path = tmp_path / "keys"
    path.write_text("x", encoding="ascii")
    used = run("listen", "--port", str(listener.port))
    wrong = run("listen", "--public-keys-file", str(path))

    assert used.status == 1
    assert "cannot be used" in used.err
    assert wrong.status == 2
    assert "whpk_ and Base64" in wrong.err

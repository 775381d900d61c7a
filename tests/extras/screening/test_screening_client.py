"""The client of a screening service, with real servers that misbehave."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from api.extras.screening.client import (
    AT_ONCE,
    LIST_SECONDS,
    MAX_BYTES,
    PAUSE,
    ScreeningClient,
)
from dev.ports import free_port
from signer.errors import ConfigurationError, ScreeningUnavailableError
from signer.webhooks.signatures import Secret, verify
from tests.extras.screening.screened import screened, screening_service
from tests.fixtures.plain_server import Reply
from tests.support.refunds import CUSTOMER
from tests.support.waiting import Timer, eventually


ROOT = Path(__file__).parents[3]
OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
SECRET = Secret(b"\x07" * 32)
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "screening.secret"
    path.write_text(SECRET.format())
    path.chmod(0o600)
    return path


Connect = Callable[..., ScreeningClient]


@pytest.fixture
def connect(secret_file: Path) -> Connect:

    def make(url: str, **options: Any) -> ScreeningClient:
        given = {"allow_http": True, "kept_seconds": 60, "clock": lambda: NOW}
        return ScreeningClient(SecretStr(url), secret_file, **{**given, **options})

    return make


@pytest.mark.parametrize("allowed", [True, False])
def test_the_service_decides(connect: Connect, allowed: bool) -> None:
    """It is asked about the address on the chain, by a signed request."""
    with screening_service(screened(allowed)) as service:
        assert connect(service.url).allows(CUSTOMER, 137, "shop") is allowed

    ((_, _, headers, body),) = service.asked
    assert json.loads(body) == {"address": CUSTOMER.lower(), "chain_id": 137}
    assert verify([SECRET], headers, body, NOW).startswith("scr_")


def test_a_permission_is_kept_for_a_while(connect: Connect) -> None:
    """For the same address and chain; a denial is not kept."""
    timer = Timer()
    with screening_service(screened(allowed=True)) as service:
        client = connect(service.url, timer=timer)
        assert client.allows(CUSTOMER, 137, "shop")
        assert client.allows(CUSTOMER.lower(), 137, "shop")
        assert len(service.asked) == 1
        assert client.allows(CUSTOMER, 1, "shop")
        assert len(service.asked) == 2
        service.reply = screened(allowed=False)
        assert client.allows(CUSTOMER, 137, "shop")
        timer.now += 60
        assert not client.allows(CUSTOMER, 137, "shop")
        service.reply = screened(allowed=True)
        assert client.allows(CUSTOMER, 137, "shop")
        assert len(service.asked) == 4


def test_nothing_is_kept_for_no_seconds(connect: Connect) -> None:
    with screening_service(screened(allowed=True)) as service:
        client = connect(service.url, kept_seconds=0)
        assert client.allows(CUSTOMER, 137, "shop")
        assert client.allows(CUSTOMER, 137, "shop")

    assert len(service.asked) == 2


def test_a_bounded_number_is_kept(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest permission is forgotten first."""
    monkeypatch.setattr("api.extras.screening.client._MOST_KEPT", 2)
    with screening_service(screened(allowed=True)) as service:
        client = connect(service.url)
        for chain_id in (1, 2, 3, 3, 2, 1):
            assert client.allows(CUSTOMER, chain_id, "shop")

    asked = [json.loads(body)["chain_id"] for *_, body in service.asked]
    assert asked == [1, 2, 3, 1]


OTHER_ANSWERS: list[tuple[Reply, str]] = [
    (screened(allowed=True, address=OTHER), "another-address"),
    (screened(allowed=True, address=None), "another-address"),
    (screened("true"), "no-answer"),
    (screened(1), "no-answer"),
    (screened(None), "no-answer"),
    ((200, {}, b"true"), "not-json"),
    ((200, {}, b"<html>"), "not-json"),
    ((200, {}, b"[" * 10_000), "not-json"),
    ((200, {}, b""), "not-json"),
    ((200, {}, b" " * (MAX_BYTES + 1)), "too-large"),
    ((204, {}, b""), "status-204"),
    ((401, {}, screened(allowed=True)[2]), "status-401"),
    ((500, {}, screened(allowed=True)[2]), "status-500"),
]


def test_another_answer_is_none(
    connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no secret of the URL is in the error or the log."""
    with screening_service(screened(allowed=True)) as service:
        for service.reply, reason in OTHER_ANSWERS:
            client = connect(service.url)
            with pytest.raises(ScreeningUnavailableError, match=reason) as failed:
                client.allows(CUSTOMER, 137, "shop")

            output = capsys.readouterr()
            assert "screening-failed" in output.out, reason
            assert "CANARY" not in f"{failed.value!r} {client!r} {output}"


def test_a_redirect_is_not_followed(connect: Connect) -> None:
    """Not even to this host, which would answer."""
    with screening_service(screened(allowed=True)) as target:
        reply = (307, {"Location": target.url}, b"")
        with (
            screening_service(reply) as service,
            pytest.raises(ScreeningUnavailableError, match="status-307"),
        ):
            connect(service.url).allows(CUSTOMER, 137, "shop")

    assert target.asked == []


def test_a_slow_service_gives_no_answer(connect: Connect) -> None:
    """The whole answer has one deadline."""
    with screening_service(screened(allowed=True)) as service:
        service.may_answer.clear()
        with pytest.raises(ScreeningUnavailableError, match="too-slow"):
            connect(service.url, timeout=0.2).allows(CUSTOMER, 137, "shop")


def test_a_failure_pauses_the_questions(connect: Connect) -> None:
    """So a list does not wait for each; permissions and other tenants go on."""
    timer = Timer()
    with screening_service(screened(allowed=True)) as service:
        client = connect(service.url, timer=timer)
        client.allows(CUSTOMER, 1, "shop")
        service.reply = (500, {}, b"")
        for _ in range(3):
            with pytest.raises(ScreeningUnavailableError):
                client.allows(CUSTOMER, 2, "shop")
        assert len(service.asked) == 2
        with pytest.raises(ScreeningUnavailableError, match="status-500"):
            client.allows(CUSTOMER, 2, "another")
        assert client.allows(CUSTOMER, 1, "shop")
        timer.now += PAUSE
        service.reply = screened(allowed=True)
        assert client.allows(CUSTOMER, 2, "shop")


def test_one_tenant_leaves_questions_for_others(connect: Connect) -> None:
    """One asks about address after address, and the service is slow."""
    with screening_service(screened(allowed=True)) as service:
        client = connect(service.url, timeout=30)
        service.may_answer.clear()
        with ThreadPoolExecutor(2 * AT_ONCE + 1) as pool:
            asked = [
                pool.submit(client.allows, CUSTOMER, n, "mallory")
                for n in range(2 * AT_ONCE)
            ]
            assert eventually(lambda: len(service.asked) == len(asked), 10)
            with pytest.raises(ScreeningUnavailableError):
                client.allows(CUSTOMER, 137, "mallory")
            other = pool.submit(client.allows, CUSTOMER, 137, "shop")
            assert eventually(lambda: len(service.asked) == len(asked) + 1, 10)
            service.may_answer.set()

            assert other.result()


def test_several_questions_of_a_list_are_open_at_once(connect: Connect) -> None:
    with screening_service(screened(allowed=True)) as service:
        client = connect(service.url, timeout=30)
        questions = [(CUSTOMER, n) for n in range(3 * AT_ONCE)]
        service.may_answer.clear()
        with ThreadPoolExecutor(2 * AT_ONCE + 1) as pool:
            answers = pool.submit(client.answers, questions, "shop")
            assert eventually(lambda: len(service.asked) == AT_ONCE, 10)
            service.may_answer.set()

            assert answers.result() == dict.fromkeys(questions, True)
        service.reply = screened(allowed=False)
        assert client.answers([(CUSTOMER, 137)], "shop") == {(CUSTOMER, 137): False}
        service.reply = 500, {}, b""
        assert client.answers([(CUSTOMER, 138)], "shop") == {(CUSTOMER, 138): None}


def test_a_list_is_asked_for_a_bounded_time(connect: Connect) -> None:
    """What is left has no answer; what was allowed is not asked again."""
    times = iter([0.0])

    with screening_service(screened(allowed=True)) as service:
        client = connect(service.url, timer=lambda: next(times, LIST_SECONDS))

        assert client.answers([(CUSTOMER, 1)], "shop") == {(CUSTOMER, 1): None}
        assert service.asked == []


def test_no_service_gives_no_answer(connect: Connect) -> None:
    client = connect(f"http://127.0.0.1:{free_port()}/")

    with pytest.raises(ScreeningUnavailableError, match="unreachable"):
        client.allows(CUSTOMER, 137, "shop")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "https://user:pw@host/", "https://", "ftp://host/", "x"],
)
def test_an_unsafe_url_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect(url, allow_http=False)

    (refusal,) = refused.value.refusals
    assert refusal.code == "screening-misconfigured"
    assert "pw" not in str(refusal)


@pytest.mark.parametrize("content", [None, "", "password", "whsec_AAAA"])
def test_a_secret_that_cannot_sign_is_refused(
    connect: Connect, secret_file: Path, content: str | None
) -> None:
    if content is None:
        secret_file.unlink()
    else:
        secret_file.write_text(content)

    with pytest.raises(ConfigurationError, match="SCREENING_SECRET_FILE"):
        connect("https://host/")


def test_a_secret_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="SCREENING_SECRET_FILE"):
        ScreeningClient(
            SecretStr("https://host/"), None, allow_http=False, kept_seconds=1
        )


def test_others_may_not_read_the_secret(connect: Connect, secret_file: Path) -> None:
    secret_file.chmod(0o644)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        connect("https://host/")


def test_the_documented_service(
    connect: Connect, secret_file: Path, tmp_path: Path
) -> None:
    """It denies the addresses of its list, and requires the secret."""
    page = (ROOT / "docs/how-to/screening.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    denied = tmp_path / "denied.txt"
    denied.write_text(f"# ticket 4711\n{OTHER}  # reported\n")
    port = free_port()
    environ = {**os.environ, "SECRET_FILE": str(secret_file), "PORT": str(port)}
    stranger = tmp_path / "stranger.secret"
    stranger.write_text(Secret(b"\x08" * 32).format())
    stranger.chmod(0o600)
    url, options = f"http://127.0.0.1:{port}/", {"clock": lambda: datetime.now(UTC)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env={**environ, "LIST_FILE": str(denied)}
    ) as process:
        try:
            client = connect(url, **options)
            assert eventually(lambda: _answers(client), 60)

            assert client.allows(CUSTOMER, 137, "shop")
            assert not client.allows(OTHER, 137, "shop")
            other = ScreeningClient(
                SecretStr(url), stranger, allow_http=True, kept_seconds=1
            )
            with pytest.raises(ScreeningUnavailableError, match="status-401"):
                other.allows(CUSTOMER, 137, "shop")
        finally:
            process.terminate()


def _answers(client: ScreeningClient) -> bool:
    try:
        return client.allows("0x" + "0" * 40, 1, "shop")
    except ScreeningUnavailableError:
        return False

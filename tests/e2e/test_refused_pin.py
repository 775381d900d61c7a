"""A token's PIN is changed while the service runs: the old one is tried once."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.processes import children
from dev.stack import request
from signer.crypto.der import parse_public_key
from signer.private_files import write_whole
from tests.e2e.dependencies import prepared_networks, service_environ
from tests.e2e.running_service import RunningService
from tests.fixtures.chain import DevChain
from tests.fixtures.hostile import KEY, LABEL, MakeHostile
from tests.support.forked_processes import run_command
from tests.support.waiting import eventually


pytestmark = pytest.mark.needs("cc")

_PATIENCE = 60.0


@dataclass(frozen=True)
class Host:
    """The settings of a service, and the device beside it."""

    environ: dict[str, str]
    folder: Path

    def change_pin(self, pin: str) -> None:
        write_whole(self.folder / "device-pin", pin.encode())

    def correct_file(self) -> None:
        pin = (self.folder / "device-pin").read_bytes()
        write_whole(self.folder / "pin", pin + b"\n")

    def logins(self) -> list[str]:
        return (self.folder / "logins").read_text().splitlines()

    def wrong_logins(self) -> int:
        return self.logins().count("wrong")


@pytest.fixture
def host(tmp_path: Path, local_chain: DevChain, make_hostile: MakeHostile) -> Host:
    hostile = make_hostile()
    address = parse_public_key(hostile.backend.public_key(KEY)).address
    networks, _ = prepared_networks(
        tmp_path, local_chain.url, address, node_url=local_chain.url
    )
    environ = service_environ(
        tmp_path,
        networks,
        HOSTILE_TABLE=os.environ["HOSTILE_TABLE"],
        HOSTILE_PIN=str(tmp_path / "device-pin"),
        HOSTILE_LOGINS=str(tmp_path / "logins"),
        KEY_BACKEND="pkcs11",
        PKCS11_MODULE=str(hostile.module),
        PKCS11_TOKEN_LABEL=LABEL,
        PKCS11_PIN_FILE=str(tmp_path / "pin"),
        PKCS11_KEY_ID=KEY,
        WALLET_ADDRESS=address,
        WEB_CONCURRENCY="2",
    )
    host = Host(environ, tmp_path)
    host.change_pin("first")
    host.correct_file()
    return host


@pytest.fixture
def service(host: Host) -> Iterator[RunningService]:
    with RunningService(host.environ) as service:
        assert eventually(lambda: host.logins() == ["right"] * 4, _PATIENCE)
        yield service


def _recycle(workers: list[int]) -> None:
    for worker in workers:
        os.kill(worker, signal.SIGTERM)


def test_a_refused_pin_is_tried_once_by_all_gunicorn_workers(
    host: Host, service: RunningService
) -> None:
    """P8: the others serve on, and a corrected file is tried without a restart."""
    master = service.processes["serve"].pid

    def failed_starts() -> int:
        events = service.events(mark)
        return sum(event["event"] == "worker-not-started" for event in events)

    mark = service.mark()
    host.change_pin("second")
    _recycle(children(master)[:1])
    assert eventually(lambda: failed_starts() >= 3, _PATIENCE)
    assert host.wrong_logins() == 1
    url = f"http://127.0.0.1:{service.port}/healthz"
    assert request("GET", url)[0] == 200
    host.correct_file()
    assert eventually(lambda: host.logins().count("right") == 5, _PATIENCE)

    mark = service.mark()
    host.change_pin("third")
    _recycle(children(master))  # Both at once.
    assert eventually(lambda: failed_starts() >= 4, _PATIENCE)
    assert host.wrong_logins() == 2


def test_gunicorn_workers_share_the_pause_after_a_login_that_fails(host: Host) -> None:
    """Some devices answer a wrong PIN with CKR_GENERAL_ERROR, as an outage."""
    environ = {**host.environ, "HOSTILE_REFUSAL": "5"}
    with RunningService(environ) as service:
        assert eventually(lambda: host.logins() == ["right"] * 4, _PATIENCE)
        mark = service.mark()
        host.change_pin("second")
        _recycle(children(service.processes["serve"].pid)[:1])

        def refusals() -> str:
            events = service.events(mark)
            return str([event.get("refusals") for event in events])

        assert eventually(lambda: "too soon" in refusals(), _PATIENCE)
        host.correct_file()
        assert eventually(lambda: host.logins().count("right") == 5, _PATIENCE)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_start_with_a_wrong_pin_ends_with_a_status_of_its_own(
    host: Host, command: str
) -> None:
    """The units for systemd do not restart it, or each start would cost a try."""
    host.change_pin("second")
    finished = run_command([command], {**host.environ, "BIND": "127.0.0.1:0"})

    assert (finished.returncode, host.logins()) == (os.EX_NOPERM, ["wrong"])
    assert "each start tries the PIN once" in finished.stdout + finished.stderr

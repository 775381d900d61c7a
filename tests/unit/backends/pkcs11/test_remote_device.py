"""A device on a network: SoftHSM behind p11-kit, whose server dies and returns."""

import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from backends.pkcs11 import PKCS11Backend
from signer.config.settings import Settings
from signer.crypto.der import parse_public_key
from signer.diagnostics import State, run_checks
from signer.errors import BackendUnavailableError, KeyNotProtectedError
from signer.ports.key_backend import KeyId
from softhsm.doctor import token_checks
from tests.fixtures.p11_kit import Network
from tests.fixtures.softhsm_programs import sign, sign_as
from tests.support.waiting import eventually
from tests.unit.backends.pkcs11.test_proof import WEAK


pytestmark = pytest.mark.needs("p11-kit")

_SIGNATURES = 1_000
_THREADS = 4
_FAULTS_AT = {100: "kill", 300: "cut", 500: "delay", 600: "restart", 850: "cut"}


@pytest.fixture
def network(p11_kit_network: Network) -> Iterator[Network]:
    """The network, which works again after the test."""
    yield p11_kit_network
    p11_kit_network.delay.clear()
    p11_kit_network.restart()


def test_a_module_with_a_function_list_per_caller_signs(
    p11_kit: PKCS11Backend, p11_kit_key: KeyId
) -> None:
    """p11-kit's module gives each caller a list with a state of its own."""
    assert sign(p11_kit, p11_kit_key)


def test_the_doctor_finds_nothing_wrong(
    p11_kit: PKCS11Backend,
    p11_kit_key: KeyId,
    p11_kit_module: Path,
    softhsm_environ: dict[str, str],
) -> None:
    """All nine checks pass, on a module that is not SoftHSM's."""
    sign(p11_kit, p11_kit_key)
    module = {"PKCS11_MODULE": str(p11_kit_module), "PKCS11_KEY_ID": p11_kit_key}
    settings = Settings.from_env(softhsm_environ | module)

    results = list(run_checks(token_checks(settings)))

    assert {each.name: each.state for each in results} == {
        each.name: State.OK for each in results
    }
    assert len(results) == 9


def test_no_signature_is_lost_while_the_device_fails(
    p11_kit: PKCS11Backend, p11_kit_key: KeyId, network: Network
) -> None:
    """P18: a thousand, none wrong; callers repeat what may be repeated."""
    load = _Load(p11_kit, p11_kit_key)

    with ThreadPoolExecutor(_THREADS) as pool:
        threads = [pool.submit(load.run) for _ in range(_THREADS)]
        for count, fault in _FAULTS_AT.items():
            assert eventually(partial(load.has_signed, count), 60)
            _break(network, fault)
        for thread in threads:
            thread.result()

    assert load.signed == _SIGNATURES
    assert load.recoveries
    assert max(load.recoveries) < 10


class _Load:
    """Threads that sign, and repeat what failed until it succeeds."""

    def __init__(self, device: PKCS11Backend, key_id: KeyId) -> None:
        self.signed = 0
        self.recoveries: list[float] = []
        self._device = device
        self._key_id = key_id
        self._public_key = parse_public_key(device.public_key(key_id))
        self._left = threading.Semaphore(_SIGNATURES)
        self._lock = threading.Lock()

    def has_signed(self, count: int) -> bool:
        return self.signed >= count

    def run(self) -> None:
        while self._left.acquire(blocking=False):
            began = time.monotonic()
            attempts = 1
            while not self._is_signed():
                attempts += 1
                time.sleep(0.02)  # As a caller does.
            with self._lock:
                self.signed += 1
                if attempts > 1:
                    self.recoveries.append(time.monotonic() - began)

    def _is_signed(self) -> bool:
        try:
            sign_as(self._device, self._key_id, self._public_key)
        except BackendUnavailableError:
            return False
        return True


def test_an_absent_device_is_unavailable_and_returns(
    p11_kit: PKCS11Backend, p11_kit_key: KeyId, network: Network
) -> None:
    """The error may be retried; no restart of the process is needed."""
    address = sign(p11_kit, p11_kit_key)
    network.kill()

    with pytest.raises(BackendUnavailableError):
        p11_kit.sign_digest(p11_kit_key, secrets.token_bytes(32))
    network.start()

    assert sign(p11_kit, p11_kit_key) == address


def test_another_instance_recovers_what_the_first_lost(
    p11_kit: PKCS11Backend, p11_kit_key: KeyId, network: Network
) -> None:
    """The first one may never be called again."""
    address = sign(p11_kit, p11_kit_key)
    network.restart()

    assert sign(_another(p11_kit), p11_kit_key) == address


@pytest.mark.needs("cc")
def test_production_refuses_a_weak_device_behind_a_network(
    *,
    p11_kit: PKCS11Backend,
    p11_kit_key: KeyId,
    network: Network,
    stand_in_environ: dict[str, str],
) -> None:
    """P9: the names and attributes are those of the device, not of p11-kit."""
    variables, codes = WEAK["everything"]
    network.restart(**stand_in_environ | variables)

    with pytest.raises(KeyNotProtectedError) as caught:
        _another(p11_kit, is_production=True).public_key(p11_kit_key)

    assert [each.code for each in caught.value.refusals] == codes


@pytest.mark.needs("cc")
def test_production_signs_with_a_proved_device_behind_a_network(
    p11_kit: PKCS11Backend,
    p11_kit_key: KeyId,
    network: Network,
    stand_in_environ: dict[str, str],
) -> None:
    network.restart(**stand_in_environ)

    assert sign(_another(p11_kit, is_production=True), p11_kit_key)


def _another(backend: PKCS11Backend, *, is_production: bool = False) -> PKCS11Backend:
    opened = backend._session
    return PKCS11Backend(
        Path(opened._path),
        opened._token_name,
        opened._pin,
        is_production=is_production,
    )


def _break(network: Network, fault: str) -> None:
    if fault == "cut":
        network.cut()
    elif fault == "delay":
        network.delay.set()
    else:
        network.delay.clear()
        network.kill()
        time.sleep(0.3 if fault == "kill" else 0)  # How long the device is away.
        network.start()

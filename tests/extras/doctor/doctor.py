"""Runs the checks of ``hotwallet doctor`` in the test's own process."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.backend_factories import open_store
from api.container import Container
from api.extras.doctor.commands import all_checks
from api.extras.doctor.key_checks import DoctorContext
from signer.audit.checkpoints import CheckpointKey
from signer.diagnostics import CheckResult, run_checks
from signer.ports.ledger import Ledger
from tests.api.networks import write_networks
from tests.fixtures.chain import DevChain
from tests.support.ledgers import seal, write_mac_key


def make_environ(folder: Path, chain: DevChain) -> dict[str, str]:
    """Return the environment of a network, an empty ledger and a service's keys."""
    # With the default, a busy machine has a node that is down.
    networks = write_networks(
        folder / "networks.toml", chain.url, chain.token, timeout_ms=10_000
    )
    pem = folder / "jwt.pem"
    pem.write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    audit = folder / "audit.pem"
    audit.touch(0o600)
    audit.write_bytes(CheckpointKey.generate().private_pem())
    return {
        "APP_ENV": "test",
        "NETWORKS_FILE": str(networks),
        "DATABASE_URL": f"sqlite:///{folder / 'ledger.db'}",
        "JWT_PUBLIC_KEY_FILE": str(pem),
        "AUDIT_SIGNING_KEY_FILE": str(audit),
        "MAC_KEY_FILE": str(write_mac_key(folder)),
    }


def run_doctor(
    environ: Mapping[str, str], **changed: str | None
) -> dict[str, CheckResult]:
    """Return every result by its name; a variable of *changed* is unset by None."""
    given = {**environ, **changed}
    with ExitStack() as sealers:

        class SealedContainer(Container):
            @cached_property
            def store(self) -> Ledger:
                store = open_store(self.settings)
                sealers.enter_context(sealing(store))
                return store

        container = SealedContainer(
            environ={name: value for name, value in given.items() if value is not None}
        )
        context = DoctorContext(container)
        return {result.name: result for result in run_checks(all_checks(context))}


def states(results: Mapping[str, CheckResult]) -> dict[str, str]:
    return {name: str(result.state) for name, result in results.items()}


@contextmanager
def sealing(store: Ledger) -> Iterator[None]:
    """Seal the records of *store* in a thread."""
    stop = threading.Event()

    def seal_often() -> None:
        while not stop.wait(0.05):
            seal(store)

    with ThreadPoolExecutor(1) as pool:
        sealed = pool.submit(seal_often)
        try:
            yield
        finally:
            stop.set()
    sealed.result()

"""The networks file of a host: who can write it raises a limit, and restores it."""

import pytest

from api.bootstrap import record_start
from api.container import Container
from backends.sql import SQLStore
from signer.audit.configurations import report_configurations
from signer.config.networks import Network, Token
from signer.model.audit_record import Operation, Purpose, Record, Subject
from signer.ports.clock import utc_now
from tests.api.service import build_container
from tests.support.ledgers import seal


SUBJECT = Subject("pkcs11", "01", "0x5FbDB2315678afecb367f032d93F642f64180aa3")


class _Host:
    """Restarts the worker with another networks file."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store

    def start(self, max_amount: str, *, honest: bool = True) -> Container:
        container = build_container(self.store, utc_now)
        network = container.networks["local"]
        raised = _with_max_amount(network, max_amount)
        container.networks = {"local": raised}
        if honest:
            record_start(container, "worker")
        return container

    def pay(self, container: Container) -> None:
        purpose = Purpose(Operation.TRANSACTION_SIGNING, "local", "worker")
        container.audit.write(container.audit.intent(purpose, SUBJECT))

    def records(self) -> list[Record]:
        seal(self.store)
        return [each.record for each in self.store.sealed(0, 1000)]


def _with_max_amount(network: Network, amount: str) -> Network:
    token = network.tokens["TUSD"]
    tokens = {
        "TUSD": Token.model_validate({**token.model_dump(), "max_amount": amount})
    }
    return network.model_copy(update={"tokens": tokens})


@pytest.fixture
def host(store: SQLStore) -> _Host:
    return _Host(store)


def test_a_limit_is_raised_for_an_hour(host: _Host) -> None:
    """Both changes stay in the audit log, and so does each signature between them."""
    host.pay(host.start("1000"))
    host.pay(host.start("900000"))
    host.pay(host.start("1000"))

    records = [record.fields for record in host.records()]
    changes = [
        each["details"]["changes"]
        for each in records
        if each["event"] == "configuration-changed"
    ]
    signed = [each["configuration"] for each in records if "configuration" in each]
    field = "networks.local.tokens.TUSD.max_amount"
    assert [change[field]["after"] for change in changes] == ["900000", "1000"]
    assert signed[0] == signed[2] != signed[1]


def test_the_database_role_hides_no_change(host: _Host) -> None:
    """Records cannot be deleted; an invented one does not replace the next start."""
    host.start("1000")
    raised = host.start("900000", honest=False)
    record_start(raised, "worker")  # As the thief would invent it, before the change.
    host.pay(host.start("900000"))

    loaded = [
        fields["details"]["hash"]
        for fields in (record.fields for record in host.records())
        if fields["event"] == "configuration-loaded"
    ]
    assert loaded[1:] == [raised.configuration.hash] * 2


def test_a_changed_program_records_no_start(host: _Host) -> None:
    """A signature without a start-up record is reported to the auditor."""
    host.pay(host.start("1000"))
    host.pay(raised := host.start("900000", honest=False))
    found = report_configurations(host.records())

    assert not found.is_good
    assert [use.hash for use in found.uses if not use.is_described] == [
        raised.configuration.short
    ]

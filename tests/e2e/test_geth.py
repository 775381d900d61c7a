"""The service as processes on geth: a refund from its request to its end."""

from pathlib import Path

import pytest

from dev import stablecoin as coin
from signer.config.settings import Settings
from tests.e2e.dependencies import KMSProcess, prepared_networks, service_environ
from tests.e2e.running_service import RunningService
from tests.e2e.timed_client import TimedClient
from tests.fixtures.geth import GethChain
from tests.support.waiting import eventually


pytestmark = pytest.mark.nodes


def test_a_refund_is_confirmed(
    geth: GethChain, tmp_path: Path, aws_environment: None
) -> None:
    """It is accepted over HTTP, signed in a KMS, mined, and confirmed at its depth."""
    with KMSProcess(tmp_path) as kms:
        networks, token = prepared_networks(
            tmp_path, geth.url, kms.address, node_url=geth.url, confirmations=3
        )
        ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
        environ = service_environ(
            tmp_path, networks, **kms.settings, DATABASE_URL=ledger
        )
        with RunningService(environ) as service:
            settings = Settings.from_env(environ)
            client = TimedClient(service.port, settings, kms.other_key)
            accepted = client.submit()
            assert accepted.status == 201, accepted

            def is_confirmed() -> bool:
                geth.mine()
                refund = client.get(accepted.body["id"]).body
                return bool(refund["status"] == "confirmed")

            assert eventually(is_confirmed, pause=0.2)

        (submission,) = client.submissions
        recipient = submission.body["recipient"]
        assert coin.balance_of(geth.url, token, recipient) == 1_250_000

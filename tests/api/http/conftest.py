"""Fixtures for the tests of the administrators' routes."""

import pytest
from falcon.testing import TestClient

from api.auth.authorization import AccessPolicy
from api.auth.rate_limits import RateLimits
from api.http.app import create_app
from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.config.tenants import TenantRegistry
from tests.api.service import build_container, replaced
from tests.api.support import SettableClock
from tests.support.ring import ELSEWHERE, OLD, SILENCE, System


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """Two more keys, and a replica of the active one under another id."""
    system = System(sqlite_store)
    system.replicate(OLD, ELSEWHERE)
    return system


@pytest.fixture
def needs_funds() -> bool:
    """Whether a rotation waits for funds at the new address."""
    return False


@pytest.fixture
def admin_client(
    system: System, clock: SettableClock, *, needs_funds: bool
) -> TestClient:
    """A client of an application that administers the keys of ``system``."""
    store = system.store
    audit = AuditLog(SILENCE, journal=store)
    container = replaced(
        build_container(store, clock),
        rotation=system.rotation(needs_funds=needs_funds),
        failover=system.failover(),
        revocation=system.revocation(),
        access=AccessPolicy(
            store,
            RateLimits.shared(store, clock=clock),
            audit,
            clock,
            TenantRegistry(),
        ),
    )
    return TestClient(create_app(container))

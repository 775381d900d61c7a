"""The container opens only what a command uses."""

from dataclasses import replace
from typing import NoReturn, cast

import pytest

from api.bootstrap import build_admin_container, build_container
from api.container import Container
from backends.sql import SQLStore
from signer.errors import ConfigurationError
from signer.ports import KeyDirectory
from tests.api.service import container_over
from tests.contract.reference import ReferenceBackend


class _OpenedError(Exception):
    pass


def _refuse_to_open(*_: object) -> NoReturn:
    raise _OpenedError


@pytest.fixture
def container(sqlite_store: SQLStore) -> Container:
    """A container over a ledger; opening a device, chain or token key fails."""
    container = replace(
        container_over(sqlite_store, cast("KeyDirectory", object()), {}),
        open_backend=_refuse_to_open,
        open_chains=_refuse_to_open,
        open_jwt_keys=_refuse_to_open,
    )
    container.networks = {}
    return container


@pytest.mark.parametrize("part", ["store", "revocation", "audit", "alerts", "ring"])
def test_parts_that_need_only_the_ledger(container: Container, part: str) -> None:
    assert getattr(container, part) is getattr(container, part)


def test_the_explainer_needs_no_device(container: Container) -> None:
    container.chains = {}

    assert container.explainer is container.explainer


@pytest.mark.parametrize("part", ["rotation", "failover", "sweeper", "worker"])
def test_only_requests_need_token_keys(
    container: Container, sqlite_store: SQLStore, part: str
) -> None:
    container.backend = cast("KeyDirectory", ReferenceBackend())
    container.chains = {}

    getattr(container, part)

    with pytest.raises(_OpenedError):
        _ = container.authenticator


def test_a_part_that_failed_is_opened_again(container: Container) -> None:
    with pytest.raises(_OpenedError):
        _ = container.backend
    device = cast("KeyDirectory", object())
    container.open_backend = lambda _: device

    assert container.backend is device


def test_an_administrator_is_refused_before_anything_is_opened() -> None:
    """Settings that the guard refuses stop every administrative command."""
    environ = {"APP_ENV": "production", "DATABASE_URL": "sqlite:////nowhere/ledger"}

    with pytest.raises(ConfigurationError) as refused:
        build_admin_container(environ)

    assert "database-not-ready" not in {r.code for r in refused.value.refusals}
    assert build_container(environ).settings.is_production

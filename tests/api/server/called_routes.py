"""
schemathesis calls every operation of a running service, and finds nothing.

It makes valid and invalid requests from the document that the service serves.  It
checks that there is no server error; that status, type, headers and body are those of
the document; that invalid requests are refused and valid ones accepted; and that
tokens are required.

``test_schemathesis.py`` runs these tests in a process of its own.
"""

import os
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from eth_utils.address import to_checksum_address
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import negative_data_rejection
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.auth.dev_tokens import mint
from api.extras.signing_api.methods import METHODS
from api.http.openapi.document import complete_document, document_of
from signer.config.settings import Settings
from tests.api.fuzzed_app import KEY_IDS
from tests.api.live_server import Server, service_environ
from tests.api.scopes import SCOPES


# A valid request may be refused by the policy (422), as one for a refund of a token
# that is not configured.
ACCEPTED = ["2xx", "401", "403", "404", "409", "410", "422", "429"]


def _amount(units: int) -> str:
    return f"{units // 10**6}.{units % 10**6:06}"


# What the document names and a schema cannot say.
_ADDRESSES = st.binary(min_size=20, max_size=20).filter(any).map(to_checksum_address)
_FORMATS: dict[str, st.SearchStrategy[str]] = {
    "eip55-address": _ADDRESSES,
    "address": _ADDRESSES,  # Or in lower case.
    "token-amount": st.integers(1, 999_000_000).map(_amount),
}
for _name, _strategy in _FORMATS.items():
    schemathesis.openapi.format(_name, _strategy)


_METHODS = sorted(METHODS)
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2}))?"


@dataclass(frozen=True)
class Service:
    server: Server
    settings: Settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def bearer(self) -> dict[str, str]:
        """Return the header of a new token, which may do everything."""
        token = mint(
            self.settings,
            subject="gateway-1",
            roles=["merchant", "admin", "devops", "signer"],
            scopes=SCOPES,
        )
        return {"Authorization": f"Bearer {token}"}

    def try_case(self, case: Case[Any]) -> None:
        _make_plausible(case)
        excluded = []
        # Members of a batch, and calls of JSON-RPC, are refused one by one, and the
        # request is answered 200.  An unknown parameter with an empty list is not sent.
        is_batch = case.path == "/v1/refunds/batch" or case.path.startswith("/rpc")
        if is_batch or [] in (case.query or {}).values():
            excluded.append(negative_data_rejection)
        # A schema cannot define what a complete transaction or document is.
        if case.path.startswith("/v1/sign/"):
            excluded.append(positive_data_acceptance)
        case.call_and_validate(
            base_url=self.url,
            headers=self.bearer(),
            excluded_checks=excluded,
            timeout=60,
        )


def _make_plausible(case: Case[Any]) -> None:
    """Replace valid random values by such that exist, so that requests do more."""
    if "Prefer" in case.headers or case.path == "/v1/refunds":
        case.headers["Prefer"] = "respond-async"  # Do not wait.
    if case.path == "/rpc/{network}":
        case.path_parameters["network"] = "local"
    for name, day in (("created_from", "2026-01-01"), ("created_before", "2026-02-01")):
        # A schema cannot say which days a month has, nor which time comes first.
        _replace(case.query, name, 64, day, form=_DAY)
    if not isinstance(case.body, dict):
        return
    called = len(str(case.body)) % len(_METHODS)
    _replace(case.body, "method", 256, _METHODS[called])
    for number, body in enumerate([case.body, *_objects(case.body.get("refunds"))]):
        _replace(body, "network", 128, "local", form="[!-~]+")
        _replace(body, "token", 128, "TUSD", form="[!-~]+")
        # Each member needs its own.
        _replace(body, "idempotency_key", 255, f"key-{number}", form="[!-~]+")
    if "recipient" not in case.body:
        # Of an administrator: printable, which a schema cannot say.
        _replace(case.body, "reason", 200, "a test")
    key_id = KEY_IDS[len(str(case.body)) % 2]
    _replace(case.body, "newKeyId", 512, key_id)


def _replace(
    body: dict[str, Any], name: str, longest: int, value: str, *, form: str = "(?s:.*)"
) -> None:
    """Replace the member *name*, if it is valid; others are tests of their own."""
    found: Any = body.get(name)
    is_short = isinstance(found, str) and 1 <= len(found) <= longest
    if is_short and re.fullmatch(form, found):
        body[name] = value


def _objects(members: object) -> list[Any]:
    items = members if isinstance(members, list) else []
    return [each for each in items if isinstance(each, dict)]


def _running(
    tmp_path_factory: pytest.TempPathFactory, ledger: Path, role: str
) -> Iterator[Service]:
    environ = service_environ(tmp_path_factory.mktemp(role), ledger)
    environ |= {"SERVE_ROLE": role, "WEB_THREADS": "8"}
    with Server(environ, "tests.api.fuzzed_app:get_app()") as server:
        yield Service(server, Settings.from_env(environ))


@pytest.fixture(scope="module")
def refunds(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[Service]:
    yield from _running(tmp_path_factory, _sqlite_template, "refunds")


@pytest.fixture(scope="module")
def admin(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[Service]:
    yield from _running(tmp_path_factory, _sqlite_template, "admin")


@pytest.fixture(scope="module")
def sign(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[Service]:
    yield from _running(tmp_path_factory, _sqlite_template, "sign")


def _load(*tags: str) -> BaseSchema:
    """Return the document of the operations that have one of *tags*."""
    routes = {
        path: {
            method.upper()
            for method, operation in operations.items()
            if {*operation["tags"]} & {*tags}
        }
        for path, operations in complete_document()["paths"].items()
    }
    document = document_of({path: each for path, each in routes.items() if each})
    checks = {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}
    config = SchemathesisConfig.from_dict({"checks": checks})
    return schemathesis.openapi.from_dict(deepcopy(dict(document)), config=config)


_TAGS = {
    "refunds": ("Refunds", "Tokens"),
    "admin": ("Administration", "Service"),
    "sign": ("Signing",),
}
"""The operations that are called of a process with each role."""

_TENANTS = _load(*_TAGS["refunds"])
_ADMINISTRATORS = _load(*_TAGS["admin"])
_PROGRAMS = _load(*_TAGS["sign"])

_EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))
_REQUESTS = settings(
    max_examples=_EXAMPLES,
    derandomize=_EXAMPLES == 2,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@_TENANTS.parametrize()
@_REQUESTS
def test_the_routes_of_tenants(case: Case[Any], refunds: Service) -> None:
    refunds.try_case(case)


@_ADMINISTRATORS.parametrize()
@_REQUESTS
def test_the_routes_of_administrators(case: Case[Any], admin: Service) -> None:
    admin.try_case(case)


@_PROGRAMS.parametrize()
@_REQUESTS
def test_the_routes_of_other_programs(case: Case[Any], sign: Service) -> None:
    sign.try_case(case)


def test_every_operation_is_called() -> None:
    """In one of the tests here: each has a tag of one of the roles."""
    called = {tag for tags in _TAGS.values() for tag in tags}

    for operations in complete_document()["paths"].values():
        for operation in operations.values():
            assert {*operation["tags"]} & called, operation["operationId"]

"""A caller whom a rule lets sign typed data, and who asks for what payments may not."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient
from structlog.testing import capture_logs

from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.deny_list import DenyList
from signer.config.networks import Network
from signer.config.tenants import Tenant, TenantRegistry
from signer.crypto.typed_data import TypedData
from signer.model.hold import EVERYTHING
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.api.service import (
    NETWORKS,
    RECIPIENT,
    TOKEN_ADDRESS,
    build_container,
    replaced,
)
from tests.api.signers import call, sign
from tests.api.support import SettableClock
from tests.fixtures.ledger import stopped
from tests.unit.signer.clear_signing import documents as d


DOCUMENTS = """
@id("documents")  // The most that an operator could write by mistake.
permit (principal, action == Action::"sign-typed-data", resource);
"""

OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
NOBODY = "0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"
NOTHING = Tenant(subjects=("gateway-1",))

Answer = Mapping[str, Any]


def _document(
    type_string: str, chain_id: int | None = 31337, **changes: object
) -> dict[str, Any]:
    """Return a document about the token, in JSON."""
    types = d.types_of(type_string)
    message = {
        name: f"0x{value.hex()}" if isinstance(value, bytes) else value
        for name, value in d.signed_for_others(type_string, **changes).items()
    }
    domain: dict[str, Any] = {"name": "Example", "verifyingContract": TOKEN_ADDRESS}
    if chain_id is not None:
        domain["chainId"] = chain_id
    text = json.dumps(message).replace(d.USDC, TOKEN_ADDRESS)
    primary = next(iter(types))
    return {
        "types": types,
        "primaryType": primary,
        "domain": domain,
        "message": json.loads(text),
    }


def _calldata(amount: int, recipient: str = RECIPIENT) -> str:
    return f"0xa9059cbb{recipient[2:].lower().rjust(64, '0')}{amount:064x}"


# What each kind lets leave: *amount* base units, to or for RECIPIENT.
KINDS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "permit": lambda amount: _document(d.ERC2612, value=amount),
    "transfer": lambda amount: _document(d.ERC3009, to=RECIPIENT, value=amount),
    "order": lambda amount: _document(d.COW_ORDER, sellAmount=amount, feeAmount=0),
    "1inch": lambda amount: _document(d.INCH_ORDER, makingAmount=amount),
    "approval": lambda amount: _document(d.APPROVE_WITH_AUTHORIZATION, value=amount),
    "meta transaction": lambda amount: _document(
        d.META_TRANSACTION, functionSignature=_calldata(amount)
    ),
    "forward request": lambda amount: _document(
        d.FORWARD_5, data=_calldata(amount), value=0
    ),
    "multicall": lambda amount: _document(
        d.META_TRANSACTION,
        functionSignature=d.multicall_of(
            _calldata(amount - 1), d.multicall_of(_calldata(1))
        ),
    ),
    # As bridged tokens on Polygon have it.
    "no chain": lambda amount: _document(d.ERC3009, None, to=RECIPIENT, value=amount),
}

LIMIT = 1_000_000_000


class Service:
    """An application whose operator permits typed data."""

    def __init__(self, store: SQLStore, folder: Path) -> None:
        self._denied = folder / "denied.txt"
        self.deny(NOBODY)
        tenants = TenantRegistry({"gateway-1": NOTHING})
        files = service_files(NETWORKS, tenants)
        self._container = replaced(
            build_container(
                store,
                SettableClock(),
                tenants=tenants,
                policy=Policy.compile(files, [PolicyFile("own.cedar", DOCUMENTS)]),
            ),
            deny_list=DenyList(self._denied),
        )
        self._change()

    def _change(self, **parts: object) -> None:
        """Start again, with other *parts* of the configuration."""
        self._container = replaced(self._container, **parts)
        for name in ("payment_policy", "signing"):
            vars(self._container).pop(name, None)
        self._client = TestClient(create_app(self._container))
        (self._own,) = call(self._client, "eth_accounts")["result"]

    def deny(self, address: str) -> None:
        """Make the deny list contain *address*."""
        self._denied.write_text(address)

    def limit(self, **limits: str) -> None:
        """Give the token other *limits*."""
        document = NETWORKS["local"].model_dump(mode="json")
        document["rpc_urls"] = ["http://127.0.0.1:9"]
        document["tokens"]["TUSD"] |= limits
        self._change(networks={"local": Network.model_validate(document)})

    def limit_tenant(self, **limits: str) -> None:
        """Give the tenant *limits* for the token."""
        networks = {"local": {"tokens": {"TUSD": limits}}}
        tenant = Tenant.model_validate(
            {"subjects": ["gateway-1"], "networks": networks}
        )
        self._change(tenants=TenantRegistry({"gateway-1": tenant}))

    def ask(self, document: Mapping[str, Any]) -> list[Answer | None]:
        """Return the errors of JSON-RPC and of HTTP; None for a signature."""
        rpc = call(self._client, "eth_signTypedData_v4", self._own, document)
        http = sign(self._client, "typed-data", typed_data=document)
        error = rpc.get("error")
        return [error and error["data"], http.json if http.status_code != 200 else None]


@pytest.fixture
def service(sqlite_store: SQLStore, tmp_path: Path) -> Iterator[Service]:
    """A service on an empty database."""
    with capture_logs():  # A traceback in colours takes two seconds.
        yield Service(sqlite_store, tmp_path)


def _rules(answers: Sequence[Answer | None]) -> list[str | None]:
    return [None if answer is None else answer.get("rule") for answer in answers]


def _codes(answers: Sequence[Answer | None]) -> list[str | None]:
    return [None if answer is None else answer["code"] for answer in answers]


def test_the_largest_amount(service: Service) -> None:
    """Of the token, and of the tenant; exactly that much is signed."""
    for document in KINDS.values():
        assert service.ask(document(LIMIT)) == [None, None]
        assert _rules(service.ask(document(LIMIT + 1))) == ["max-amount"] * 2
    service.limit_tenant(max_amount="2")
    for document in KINDS.values():
        assert service.ask(document(2_000_000)) == [None, None]
        assert _rules(service.ask(document(2_000_001))) == ["max-amount"] * 2


def test_a_denied_recipient(service: Service) -> None:
    """As spender, recipient or receiver, and in the calldata of a call."""
    for write in KINDS.values():
        document = write(5)
        service.deny(OTHER)
        assert service.ask(document) == [None, None]
        service.deny(RECIPIENT)
        assert _rules(service.ask(document)) == ["recipient-denied"] * 2


def test_a_denied_address_anywhere(service: Service) -> None:
    """Also in a document of an unknown kind, in a list, and as the contract."""
    types = {
        "Split": [{"name": "parts", "type": "Part[]"}, {"name": "to", "type": "bytes"}],
        "Part": [{"name": "payees", "type": "address[]"}],
    }
    approval = bytes.fromhex(_calldata(1, OTHER)[2:])
    for parts, to, contract in (
        ([[RECIPIENT, OTHER]], "0x", RECIPIENT),
        ([[RECIPIENT]], f"0x{approval.hex()}", RECIPIENT),
        ([], d.multicall_of(f"0x{approval.hex()}"), RECIPIENT),
        ([], "0x", OTHER),
    ):
        document = {
            "types": types,
            "primaryType": "Split",
            "domain": {"name": "x", "verifyingContract": contract},
            "message": {"parts": [{"payees": each} for each in parts], "to": to},
        }
        service.deny(NOBODY)
        assert service.ask(document) == [None, None]
        service.deny(OTHER)
        assert _rules(service.ask(document)) == ["recipient-denied"] * 2


@pytest.mark.parametrize("data", [_calldata(5)[:-2], "nested"])
def test_calldata_that_is_read_in_two_ways(service: Service, data: str) -> None:
    if data == "nested":
        data = _calldata(5)
        for _ in range(400):
            data = d.multicall_of(data)
    document = _document(d.META_TRANSACTION, functionSignature=data)

    assert _rules(service.ask(document)) == ["calldata"] * 2


def test_a_stopped_network(service: Service, sqlite_store: SQLStore) -> None:
    """What names no chain may be valid there as well."""
    stopped(sqlite_store, 31337)

    for write in KINDS.values():
        assert _codes(service.ask(write(5))) == ["signing-stopped"] * 2


def test_stops_of_other_networks(service: Service, sqlite_store: SQLStore) -> None:
    """A stop of one network leaves the documents of others; one of everything none."""
    largest = 2**256 - 1
    stopped(sqlite_store, 5)
    document = _document(d.ERC3009, largest)

    assert service.ask(KINDS["permit"](5)) == [None, None]
    assert _codes(service.ask(KINDS["no chain"](5))) == ["signing-stopped"] * 2
    assert service.ask(document)[1] is None  # JSON-RPC signs for its own network only.
    stopped(sqlite_store, EVERYTHING)
    assert _codes(service.ask(KINDS["permit"](5))) == ["signing-stopped"] * 2


@pytest.mark.parametrize(
    "limit", ["hourly_limit", "daily_limit", "daily_limit_per_recipient"]
)
def test_the_totals(service: Service, limit: str) -> None:
    """Documents of all kinds use the limit up together, on both paths."""
    service.limit(max_amount="500", **{limit: str(2 * len(KINDS) * 500)})
    documents = [write(500_000_000) for write in KINDS.values()]

    for document in documents:
        assert service.ask(document) == [None, None]
    for document in documents:
        assert _codes(service.ask(document)) == ["limit-reached"] * 2


def test_the_totals_of_a_tenant(service: Service) -> None:
    service.limit_tenant(max_amount="500", daily_limit="1000")
    document = KINDS["transfer"](500_000_000)

    assert service.ask(document) == [None, None]
    assert _codes(service.ask(document)) == ["limit-reached"] * 2


def test_a_permit_of_everything(service: Service) -> None:
    """Also with a rule for it: no amount is above all."""
    everything = _document(d.DAI_PERMIT, allowed=True)
    nothing = _document(d.DAI_PERMIT, allowed=False)

    assert _rules(service.ask(everything)) == ["max-amount"] * 2
    assert service.ask(nothing) == [None, None]


def test_the_documents_are_what_their_names_say() -> None:
    """Each is valid typed data."""
    for write in KINDS.values():
        assert TypedData.parse(write(5)).digest()

"""The signing service: who may have what signed, and what is recorded of it."""

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import bitcurve
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_utils.crypto import keccak

from backends.sql import SQLStore
from signer.config.tenants import Tenant, TenantRegistry
from signer.crypto.messages import PersonalMessage
from signer.crypto.transactions import (
    AnyTransaction,
    DynamicFeeTransaction,
    SignedBytes,
)
from signer.crypto.typed_data import TypedData
from signer.errors import (
    EncodingError,
    ForeignAddressError,
    KeyRotatedError,
    LimitReachedError,
    PolicyViolationError,
    RateLimitedError,
    SigningStoppedError,
    TenantBlockedError,
    TokenStoppedError,
)
from signer.model.audit_record import Actor
from signer.model.hold import EVERYTHING, Hold
from signer.model.key import SERVING
from signer.model.refund import COIN_ADDRESS
from signer.policy.default_rules import account_policy, service_files
from signer.policy.facts import Caller, OwnKeys, Path
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from signer.ports.control_store import ControlStore
from signer.signing.service import KnownAddresses, Requester, SigningService
from tests.fixtures.ledger import stopped
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN
from tests.support.devices import honest, recorded_outcomes, recording, signer_over
from tests.support.keys import key_at, key_of, made_active
from tests.support.policy import SERVICE_POLICY
from tests.support.refunds import CUSTOMER, NETWORK, SECOND, FakeClock
from tests.unit.signer.clear_signing import documents as d


KEY = bitcurve.PrivateKey.from_int(0x516E)
NETWORKS = {"local": NETWORK}

PERMITS = Policy.compile(
    service_files(NETWORKS, TenantRegistry()),
    [
        PolicyFile(
            "own.cedar",
            '@id("messages") permit (principal, action == Action::"sign-message",'
            " resource);"
            '@id("documents") permit (principal, action == Action::"sign-typed-data",'
            " resource);"
            '@id("wallet") permit (principal, action == Action::"sign-transaction",'
            ' resource) when { context.shape == "token-transfer" };',
        )
    ],
)

CALLDATA = bytes.fromhex(f"a9059cbb{CUSTOMER[2:].rjust(64, '0')}{12_500_000:064x}")


PERMISSIVE = account_policy('@id("everything") permit (principal, action, resource);')
PROGRAM = Requester(Caller(Path.ACCOUNT, subject="program"), Actor("program"))
TRANSFER = DynamicFeeTransaction(
    chain_id=CHAIN_ID,
    nonce=3,
    max_priority_fee_per_gas=1,
    max_fee_per_gas=10**9,
    gas=60_000,
    to=TOKEN,
    value=0,
    data=CALLDATA,
)

DOCUMENT = {
    "types": {"Mail": [{"name": "contents", "type": "string"}]},
    "primaryType": "Mail",
    "domain": {"name": "Example", "chainId": CHAIN_ID},
    "message": {"contents": "hello"},
}

REQUESTER = Requester(
    Caller(Path.JSON_RPC, "shop", "shop-1", "signer", "sign"),
    Actor.from_token("shop-1", "req-1", "token-1"),
)


@dataclass
class Place:
    """A service over a real ledger, with its audit log."""

    store: SQLStore
    policy: Policy = PERMITS
    own: OwnKeys = field(default_factory=OwnKeys)
    blocks: ControlStore | None = None
    denied: Collection[str] = ()
    take_turn: Callable[[Caller], AbstractContextManager[object]] = lambda _: (
        nullcontext()
    )

    def __post_init__(self) -> None:
        """Enrol the key."""
        self.events: Sequence[MutableMapping[str, Any]]
        audit, self.events = recording(journal=self.store)
        self.signer = signer_over(honest(KEY), audit)
        self.store.enrol(key_of(self.signer))

    @property
    def service(self) -> SigningService:
        """A service of a process that starts now."""
        return SigningService(
            lambda: self.signer,
            self.policy,
            NETWORKS,
            FakeClock(),
            states=SERVING,
            known=KnownAddresses(
                lambda: self.own,
                lambda: self.denied,
                lambda address, _: address.lower() in self.own.addresses,
            ),
            blocks=self.blocks,
            take_turn=self.take_turn,
        )

    def sign(self, transaction: AnyTransaction = TRANSFER) -> SignedBytes:
        """Sign *transaction*."""
        return self.service.sign_transaction(transaction, REQUESTER, None)


@pytest.fixture
def place(sqlite_store: SQLStore) -> Place:
    """A service whose policy permits messages, documents and transfers."""
    return Place(sqlite_store)


def test_signs_a_transaction(place: Place) -> None:
    """The bytes are those that eth-account recovers, and the audit describes it."""
    signed = place.sign()
    requested, done = place.events
    assert place.service.address() == place.signer.address

    assert Account.recover_transaction(signed.raw) == place.signer.address
    assert signed.transaction == TRANSFER
    assert (requested["event"], done["outcome"]) == ("digest-sign-requested", "success")
    assert done["details"] == {
        "path": "json-rpc",
        "policy": PERMITS.short_hash,
        "rule": done["details"]["rule"],
        "summary": requested["details"]["summary"],
        "tenant": "shop",
        "tx_hash": signed.tx_hash,
    }
    assert CUSTOMER in done["details"]["summary"]
    assert "12.50 TUSD" in done["details"]["summary"]
    assert (done["actor"], done["request_id"]) == ("token:shop-1", "req-1")
    assert done["network"] == "local"


def test_signs_messages_and_documents(place: Place) -> None:
    message = PersonalMessage(b"hello")
    signed = place.service.sign_personal_message(message, REQUESTER)
    document = TypedData.parse(DOCUMENT)
    typed = place.service.sign_typed_data(document, REQUESTER, place.signer.address)

    for each, signable in (
        (signed, encode_defunct(text="hello")),
        (typed, encode_typed_data(full_message=DOCUMENT)),
    ):
        assert each.to_bytes()[-1] == each.v
        found = Account.recover_message(signable, signature=each.to_bytes())
        assert found == each.address == place.signer.address
    summaries = [each["details"]["summary"] for each in place.events]
    assert summaries[0] == 'sign the message "hello"'
    assert "Mail" in summaries[2]
    # Names of tokens are those of the document's chain, which may be another or none.
    for domain in ({"name": "x"}, {"name": "x", "chainId": 5}):
        document = TypedData.parse({**DOCUMENT, "domain": domain})
        assert place.service.sign_typed_data(document, REQUESTER)


def test_a_foreign_sender(place: Place) -> None:
    """Nothing is announced: the caller means another key."""
    message, own = PersonalMessage(b"hello"), place.signer.address
    with pytest.raises(ForeignAddressError, match=own):
        place.service.sign_personal_message(message, REQUESTER, CUSTOMER)
    with pytest.raises(ForeignAddressError, match=own):
        place.service.sign_transaction(TRANSFER, REQUESTER, CUSTOMER)
    assert place.events == []


def test_digests_and_authorisations_of_a_program(sqlite_store: SQLStore) -> None:
    """Only an account signs them, with a policy of its own."""
    service = Place(sqlite_store, PERMISSIVE).service
    digest = keccak(b"digest")
    signed = service.sign_digest(digest, PROGRAM)
    delegation = service.sign_authorization(1, CUSTOMER, digest, PROGRAM)

    assert signed.digest == digest
    assert signed.address == service.address()
    assert delegation.y_parity in {0, 1}


def test_the_policy_decides_before_the_intent(sqlite_store: SQLStore) -> None:
    """Without rules of the operator no message, digest or authorisation is signed."""
    place = Place(sqlite_store, SERVICE_POLICY)
    service = place.service
    digest = keccak(b"digest")
    refused: dict[str, Callable[[], object]] = {
        "message": lambda: service.sign_personal_message(
            PersonalMessage(b"hello"), REQUESTER
        ),
        "message-digest": lambda: service.sign_personal_message(
            PersonalMessage(TRANSFER.signing_digest()), REQUESTER
        ),
        "typed-data": lambda: service.sign_typed_data(
            TypedData.parse(DOCUMENT), REQUESTER
        ),
        "digest": lambda: service.sign_digest(digest, REQUESTER),
        "delegation": lambda: service.sign_authorization(
            1, CUSTOMER, digest, REQUESTER
        ),
    }
    for rule, ask in refused.items():
        with pytest.raises(PolicyViolationError) as caught:
            ask()
        assert caught.value.rule == rule
    assert place.events == []


def test_a_caller_that_has_had_its_share(sqlite_store: SQLStore) -> None:
    """Nothing is recorded; what the policy refuses takes no share."""
    asked: list[Caller] = []

    def refuse(caller: Caller) -> AbstractContextManager[object]:
        asked.append(caller)
        raise RateLimitedError("too many", retry_after=1)

    place = Place(sqlite_store, take_turn=refuse)
    with pytest.raises(RateLimitedError):
        place.service.sign_personal_message(PersonalMessage(b"hello"), REQUESTER)
    place.policy = SERVICE_POLICY
    with pytest.raises(PolicyViolationError):
        place.service.sign_personal_message(PersonalMessage(b"hello"), REQUESTER)

    assert asked == [REQUESTER.caller]
    assert place.events == []
    assert place.signer._backend.calls == 0  # type: ignore[attr-defined]


def test_a_wallet_from_which_the_service_pays(place: Place) -> None:
    """
    Its nonces belong to the ledger: another transaction would pause it.

    No rule of an operator permits it, and another wallet is not concerned.
    """
    place.own = OwnKeys.of([place.signer.address], place.signer.address)
    for policy in (SERVICE_POLICY, PERMITS):
        place.policy = policy
        with pytest.raises(PolicyViolationError) as caught:
            place.sign()
        assert caught.value.rule == "service-wallet"

    place.own = OwnKeys()
    assert place.sign()
    with pytest.raises(PolicyViolationError) as caught:
        place.sign(replace(TRANSFER, data=CALLDATA + bytes(16)))
    assert caught.value.rule == "extra-calldata"  # It would forge a refund's memo.
    place.denied = {CUSTOMER.lower()}
    with pytest.raises(PolicyViolationError) as caught:
        place.sign()
    assert caught.value.rule == "recipient-denied"


LEDGER: dict[type[Exception], Callable[[SQLStore], object]] = {
    TenantBlockedError: lambda store: store.begin_hold(
        Hold.of_tenant("shop", FakeClock()(), "", "cli:operator")
    ),
    SigningStoppedError: lambda store: stopped(store, EVERYTHING),
    KeyRotatedError: lambda store: made_active(store, key_at(SECOND.address)),
}


@pytest.mark.parametrize(("error", "change"), LEDGER.items())
def test_what_the_ledger_forbids(
    sqlite_store: SQLStore,
    error: type[Exception],
    change: Callable[[SQLStore], object],
) -> None:
    """It is asked in the transaction that makes the intent durable."""
    place = Place(sqlite_store, blocks=sqlite_store)
    assert place.sign()
    change(sqlite_store)

    with pytest.raises(error):
        place.sign()
    with pytest.raises(error):
        place.service.sign_personal_message(PersonalMessage(b"hello"), REQUESTER)


def _permit(chain_id: int | None, amount: int = 5) -> TypedData:
    """Return a permit of the token, for CUSTOMER."""
    domain: dict[str, object] = {"name": "x", "verifyingContract": TOKEN}
    if chain_id is not None:
        domain["chainId"] = chain_id
    message = d.permit(spender=CUSTOMER, value=amount)
    return TypedData.of(domain, d.types_of(d.ERC2612), message)


@pytest.mark.parametrize("chain_id", [CHAIN_ID, None])
def test_a_stop_forbids_documents(place: Place, chain_id: int | None) -> None:
    """Of its network, and those that name none."""
    stopped(place.store, CHAIN_ID)

    with pytest.raises(SigningStoppedError):
        place.service.sign_typed_data(_permit(chain_id), REQUESTER)
    assert place.service.sign_personal_message(PersonalMessage(b"hello"), REQUESTER)
    for other in (CHAIN_ID + 1, 2**256 - 1):  # No database has the second number.
        assert place.service.sign_typed_data(_permit(other), REQUESTER)


def test_a_stop_forbids_what_may_be_for_any_chain(sqlite_store: SQLStore) -> None:
    """Digests, hashes of typed data, and authorisations for every chain."""
    place = Place(sqlite_store, PERMISSIVE)
    service, digest = place.service, keccak(b"digest")
    hashes = encode_typed_data(full_message=DOCUMENT)
    stopped(place.store, CHAIN_ID)

    for sign in (
        lambda: service.sign_digest(digest, PROGRAM),
        lambda: service.sign_message(hashes, PROGRAM),
        lambda: service.sign_authorization(0, CUSTOMER, digest, PROGRAM),
        lambda: service.sign_authorization(CHAIN_ID, CUSTOMER, digest, PROGRAM),
    ):
        with pytest.raises(SigningStoppedError):
            sign()
    assert service.sign_authorization(CHAIN_ID + 1, CUSTOMER, digest, PROGRAM)
    # Limits of hours and days are for tenants.
    assert service.sign_typed_data(_permit(CHAIN_ID + 1), PROGRAM)


def _stop_token(store: SQLStore, address: str = TOKEN) -> None:
    held = Hold.of_token(CHAIN_ID, address, FakeClock()(), "odd mints", "cli:tests")
    assert store.begin_hold(held)


def _order(values: Mapping[str, Any], **types: str) -> TypedData:
    """Return a document of the chain with members of *types*."""
    domain = {"name": "x", "chainId": CHAIN_ID, "verifyingContract": CUSTOMER}
    members = [{"name": name, "type": types[name]} for name in types]
    return TypedData.of(domain, {"Order": members}, values)


@pytest.mark.parametrize(
    "document",
    [
        _permit(CHAIN_ID),
        _permit(None),
        _order({"token": TOKEN}, token="address"),
        _order({"tokens": [CUSTOMER, TOKEN]}, tokens="address[]"),
        _order({"asset": int(TOKEN, 16)}, asset="uint256"),
        _order({"asset": (1 << 200) + int(TOKEN, 16)}, asset="uint256"),
        _order({"call": f"0x12345678{'0' * 24}{TOKEN[2:]}"}, call="bytes"),
    ],
    ids=["contract", "any chain", "member", "list", "number", "flags", "calldata"],
)
def test_a_stopped_token_forbids_documents(
    sqlite_store: SQLStore, document: TypedData
) -> None:
    """It may be the contract, a member, or hidden in a number or in calldata."""
    place = Place(sqlite_store, PERMISSIVE)
    assert place.service.sign_typed_data(document, PROGRAM)
    _stop_token(sqlite_store)

    with pytest.raises(TokenStoppedError):
        place.service.sign_typed_data(document, PROGRAM)
    other = _order(
        {"token": CUSTOMER, "note": f"see {TOKEN}"}, token="address", note="string"
    )
    assert place.service.sign_typed_data(other, PROGRAM)


def test_a_stopped_token_forbids_transactions(sqlite_store: SQLStore) -> None:
    """Those that call it or pass it on; the others are signed."""
    place = Place(sqlite_store, PERMISSIVE)
    service = place.service
    plain = replace(TRANSFER, to=CUSTOMER, data=b"")
    _stop_token(sqlite_store)

    for forbidden in (TRANSFER, replace(plain, data=bytes.fromhex(TOKEN[2:]))):
        with pytest.raises(TokenStoppedError):
            service.sign_transaction(forbidden, PROGRAM, None)
    with pytest.raises(TokenStoppedError):
        service.sign_authorization(CHAIN_ID, TOKEN, keccak(b"digest"), PROGRAM)
    with pytest.raises(TokenStoppedError):
        service.sign_digest(keccak(b"digest"), PROGRAM)
    assert service.sign_transaction(plain, PROGRAM, None)
    assert service.sign_transaction(replace(plain, value=1), PROGRAM, None)
    _stop_token(sqlite_store, COIN_ADDRESS)
    with pytest.raises(TokenStoppedError):
        service.sign_transaction(replace(plain, value=1), PROGRAM, None)
    assert service.sign_transaction(replace(plain, data=bytes(40)), PROGRAM, None)


def test_documents_count_for_the_limits(place: Place) -> None:
    """Those of the tenant, as payments do."""
    token = {"hourly_limit": "20", "max_amount": "10"}
    limits = {"networks": {"local": {"tokens": {"TUSD": token}}}}
    tenant = Tenant.model_validate({"subjects": ["shop-1"], **limits})
    requester = replace(REQUESTER, limits=tenant)

    for chain_id in (CHAIN_ID, None):
        document = _permit(chain_id, 10_000_000)
        assert place.service.sign_typed_data(document, requester)
    for chain_id in (CHAIN_ID, None):
        with pytest.raises(LimitReachedError, match="hourly_limit of TUSD"):
            place.service.sign_typed_data(_permit(chain_id, 1), requester)
    with pytest.raises(PolicyViolationError) as caught:
        place.service.sign_typed_data(_permit(CHAIN_ID, 10_000_001), requester)
    assert caught.value.rule == "max-amount"


def test_addresses_in_documents(place: Place) -> None:
    """Also in lists, and in calls that bytes contain."""
    types = {"Split": [{"name": "payees", "type": "address[]"}]}
    call = {"Call": [{"name": "data", "type": "bytes"}]}
    approval = "0x095ea7b3" + CALLDATA.hex()[8:]
    several = d.multicall_of(approval, "0x12345678")
    malformed = several[:-2]
    domain = {"name": "x"}
    place.denied = {CUSTOMER.lower()}

    for document, rule in (
        (TypedData.of(domain, types, {"payees": [CUSTOMER]}), "recipient-denied"),
        (TypedData.of(domain, call, {"data": several}), "recipient-denied"),
        (TypedData.of(domain, call, {"data": malformed}), "calldata"),
    ):
        with pytest.raises(PolicyViolationError) as caught:
            place.service.sign_typed_data(document, REQUESTER)
        assert caught.value.rule == rule
    deep = approval
    for _ in range(6):
        deep = d.multicall_of(deep)
    with pytest.raises(PolicyViolationError) as caught:
        place.service.sign_typed_data(
            TypedData.of(domain, call, {"data": deep}), REQUESTER
        )
    assert caught.value.rule == "calldata"


def test_bytes_that_contain_something_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing leaves, and the signature that was made is on record."""

    def fail(*_: object) -> SignedBytes:
        raise EncodingError("the signed bytes contain another transaction")

    monkeypatch.setattr(SignedBytes, "of", fail)
    with pytest.raises(EncodingError):
        place.sign()

    assert recorded_outcomes(place.events) == ["success"]
    assert "tx_hash" not in place.events[-1]["details"]

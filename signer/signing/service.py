"""
The signing service: decides, announces, signs, verifies and records.

Each signature takes the same steps.  The policy decides about facts that were made from
the bytes.  The intent is durable, under the conditions of the key ring and the kill
switch, before the device is asked.  The signature recovers to the pinned key
(``Signer``), and a signed transaction is decoded again and compared.  The outcome is
durable before anything leaves.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from signer.clear_signing.calls import AddressBook, describe_transaction
from signer.clear_signing.typed_data import (
    describe_message,
    describe_typed_data,
    recognise,
)
from signer.config.networks import Network
from signer.config.tenants import NO_LIMITS, Tenant
from signer.crypto.messages import PersonalMessage, message_digest
from signer.crypto.secp256k1 import Signature, checked_digest
from signer.crypto.transactions import AnyTransaction, SignedBytes
from signer.crypto.typed_data import TypedData
from signer.errors import ForeignAddressError
from signer.keys.signer import Signed, Signer
from signer.model.audit_record import Actor, Operation, Purpose
from signer.model.hold import EVERY_CHAIN
from signer.model.key import SIGNING, KeyState
from signer.model.refund import COIN
from signer.model.spending_limits import Limits, Spending
from signer.policy.facts import (
    NO_KEYS,
    AnyFacts,
    Caller,
    KnownNetwork,
    OwnKeys,
    Surroundings,
    TypedDataFacts,
)
from signer.policy.message_facts import (
    authorization_facts,
    digest_facts,
    message_facts,
    typed_data_facts,
)
from signer.policy.policy import AnyPolicy
from signer.policy.transaction_facts import transaction_facts
from signer.ports.clock import Clock
from signer.ports.control_store import ControlStore


if TYPE_CHECKING:
    from eth_account.messages import SignableMessage


@dataclass(frozen=True, slots=True)
class KnownAddresses:
    """
    Functions of a service; a program that only has an account knows nothing.

    *own_keys* returns the addresses of the service's keys, and *denied* those of the
    deny list, in lower case.  *is_service_wallet* returns whether the service pays from
    an address on a chain, whose id is 0 for every chain.
    """

    own_keys: Callable[[], OwnKeys] = lambda: NO_KEYS
    denied: Callable[[], Collection[str]] = lambda: ()
    is_service_wallet: Callable[[str, int], bool] = lambda *_: False


NOTHING_KNOWN = KnownAddresses()


_FIRST_V = 27  # EIP-191 and EIP-712 leave v open; every wallet answers 27 or 28.


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A verified signature over *digest*, by the key of *address*."""

    address: str
    digest: bytes = field(repr=False)
    signature: Signature = field(repr=False)

    @property
    def v(self) -> int:
        """27 or 28: the y-parity, as wallets write it."""
        return _FIRST_V + self.signature.y_parity

    def to_bytes(self) -> bytes:
        """Return r, s and v: 65 bytes."""
        return self.signature.to_bytes()[:-1] + bytes([self.v])


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks: *caller* for rules, *actor* for the audit, *limits* of the tenant."""

    caller: Caller
    actor: Actor
    limits: Tenant = NO_LIMITS


_NO_NAMES = AddressBook()


@dataclass(eq=False, repr=False)
class SigningService:
    """
    Signs with the key that *open_signer* returns for each request.

    It reserves no nonce.  A transaction that it signs with the nonce of a wallet from
    which the service pays would pause that wallet, so the default policy refuses it
    (rule ``service-wallet``).

    Every method raises ``PolicyViolationError`` if the policy refuses, ``SigningError``
    if the device did not sign, ``KeyRotatedError`` if the ring does not have the key in
    one of *states*, ``SigningStoppedError`` and ``TenantBlockedError`` if an operator
    forbids it, and ``StoreError`` if the ledger does not answer.

    *blocks* knows which tenants are blocked.  *take_turn* is entered for each signature
    that the policy allows, and raises an error if the caller has had its share.
    """

    open_signer: Callable[[], Signer]
    policy: AnyPolicy
    networks: Mapping[str, Network]
    clock: Clock
    _: KW_ONLY
    states: frozenset[KeyState] = SIGNING
    known: KnownAddresses = NOTHING_KNOWN
    blocks: ControlStore | None = None
    take_turn: Callable[[Caller], AbstractContextManager[object]] = lambda _: (
        nullcontext()
    )

    def __post_init__(self) -> None:
        self._by_chain = {
            network.chain_id: KnownNetwork.of(name, network)
            for name, network in self.networks.items()
        }
        self._books = {
            network.chain_id: AddressBook.of(network)
            for network in self.networks.values()
        }

    def address(self) -> str:
        """Return the address that signs now, with its EIP-55 checksum."""
        return self.open_signer().address

    def sign_transaction(
        self, transaction: AnyTransaction, requester: Requester, sender: str | None
    ) -> SignedBytes:
        """
        Return the signed bytes of *transaction*.

        Raises:
            ForeignAddressError: *sender* is given and is not the address that signs.
            EncodingError: The signed bytes contain anything else, because of a bug.
        """
        signer = self._admit(requester, sender)
        chain_id = transaction.chain_id
        digest = transaction.signing_digest()
        signed = self._sign(
            signer,
            transaction_facts(
                transaction,
                digest,
                self._surroundings(signer, requester, chain_id, nonce_on=chain_id),
            ),
            requester,
            Operation.TRANSACTION_SIGNING,
            self._describe(transaction),
            chain_id=chain_id,
            named=_hex_in([transaction.to, transaction.data], transaction.value),
        )
        try:
            result = SignedBytes.of(transaction, signed.signature)
        except Exception:
            signed.audit.write(signed.outcome())
            raise
        signed.audit.write(signed.outcome(tx_hash=result.tx_hash))
        return result

    def sign_personal_message(
        self, message: PersonalMessage, requester: Requester, sender: str | None = None
    ) -> MessageSignature:
        """Sign *message* (EIP-191); raises as ``sign_transaction``."""
        summary = describe_message(message)
        return self.sign_message(message.signable(), requester, sender, summary)

    def sign_message(
        self,
        message: "SignableMessage",
        requester: Requester,
        sender: str | None = None,
        summary: str = "sign a message",
    ) -> MessageSignature:
        """
        Sign a *message* of any version of EIP-191, described by *summary*.

        It raises as ``sign_transaction``, and ``InvalidInputError`` as
        ``message_digest``.
        """
        digest = message_digest(message)
        signer = self._admit(requester, sender)
        facts = message_facts(message, digest, self._surroundings(signer, requester))
        # A personal message is for people.  Hashes of typed data may be for any chain.
        chain_id = EVERY_CHAIN if isinstance(facts, TypedDataFacts) else None
        return self._sign_and_record(
            signer, facts, requester, summary, chain_id=chain_id
        )

    def sign_typed_data(
        self, document: TypedData, requester: Requester, sender: str | None = None
    ) -> MessageSignature:
        """Sign *document* (EIP-712); raises as ``sign_transaction``."""
        signer = self._admit(requester, sender)
        chain_id = document.chain_id
        facts = typed_data_facts(
            document,
            recognise(document),
            document.digest(),
            self._surroundings(signer, requester, chain_id),
        )
        summary = describe_typed_data(document, self._book(chain_id))
        return self._sign_and_record(
            signer,
            facts,
            requester,
            summary,
            chain_id=chain_id or EVERY_CHAIN,
            named=_hex_in([document.domain, document.message], 0),
            spendings=self._spendings(facts, requester),
        )

    def sign_digest(self, digest: bytes, requester: Requester) -> MessageSignature:
        """Sign 32 bytes as they are, which only a policy of the user can permit."""
        signer = self._admit(requester)
        facts = digest_facts(
            checked_digest(digest), self._surroundings(signer, requester)
        )
        summary = "sign a digest"
        return self._sign_and_record(
            signer, facts, requester, summary, chain_id=EVERY_CHAIN
        )

    def sign_authorization(
        self, chain_id: int, delegate: str, digest: bytes, requester: Requester
    ) -> Signature:
        """Sign the authorisation (EIP-7702) for *delegate* that *digest* is of."""
        signer = self._admit(requester)
        surroundings = self._surroundings(signer, requester, nonce_on=chain_id)
        facts = authorization_facts(chain_id, delegate, digest, surroundings)
        return self._sign_and_record(
            signer,
            facts,
            requester,
            f"delegate the account to {delegate}",
            chain_id=chain_id or EVERY_CHAIN,
            named=delegate.lower(),
            operation=Operation.TRANSACTION_SIGNING,
        ).signature

    def _admit(self, requester: Requester, sender: str | None = None) -> Signer:
        """Return the signer; raise if it is not *sender*, or the tenant is blocked."""
        tenant = requester.caller.tenant
        if tenant is not None and self.blocks is not None:
            block = self.blocks.find_block(tenant)
            if block is not None:
                raise block.error()
        signer = self.open_signer()
        if sender is not None and sender.lower() != signer.address.lower():
            raise ForeignAddressError(
                f"must be the address that signs here, {signer.address}", field="from"
            )
        return signer

    def _sign_and_record(
        self,
        signer: Signer,
        facts: AnyFacts,
        requester: Requester,
        summary: str,
        *,
        chain_id: int | None,
        named: str = "",
        spendings: tuple[Spending, ...] = (),
        operation: Operation = Operation.MESSAGE_SIGNING,
    ) -> MessageSignature:
        signed = self._sign(
            signer,
            facts,
            requester,
            operation,
            summary,
            chain_id=chain_id,
            named=named,
            spendings=spendings,
        )
        signed.audit.write(signed.outcome())
        return MessageSignature(signer.address, signed.digest, signed.signature)

    def _sign(
        self,
        signer: Signer,
        facts: AnyFacts,
        requester: Requester,
        operation: Operation,
        summary: str,
        *,
        chain_id: int | None,
        named: str = "",
        spendings: tuple[Spending, ...] = (),
    ) -> Signed:
        """
        Return a signature whose outcome is not recorded yet.

        It is valid on *chain_id*; None means that no contract reads it.  *named* is as
        for ``Signer.announce``.
        """
        decision, caller = self.policy.require(facts), requester.caller
        network = None if chain_id is None else self._by_chain.get(chain_id)
        purpose = Purpose(
            operation,
            network=None if network is None else network.name,
            actor=requester.actor.name,
            request_id=requester.actor.request_id,
            token_id=requester.actor.token_id,
            details={
                "path": str(caller.path),
                "summary": summary,
                **({} if caller.tenant is None else {"tenant": caller.tenant}),
            },
            decision=decision,
        )
        with self.take_turn(caller):
            # A signer without a ledger has no ring to ask.
            signer.announce(
                facts.digest,
                purpose,
                states=self.states,
                chain_id=chain_id,
                named=named,
                spendings=spendings,
            )
            return signer.sign(facts.digest, purpose)

    def _surroundings(
        self,
        signer: Signer,
        requester: Requester,
        chain_id: int | None = None,
        *,
        nonce_on: int | None = None,
    ) -> Surroundings:
        """Return the surroundings of a signature, which may use a nonce of a chain."""
        sender = signer.address
        network = self._by_chain.get(chain_id or EVERY_CHAIN)
        known = () if network is None else (network,)
        return Surroundings(
            requester.caller,
            sender,
            self.clock(),
            network,
            self.known.own_keys(),
            requester.limits,
            denied=self.known.denied(),
            is_service_wallet=(
                nonce_on is not None and self.known.is_service_wallet(sender, nonce_on)
            ),
            networks=known if chain_id else tuple(self._by_chain.values()),
        )

    def _spendings(
        self, facts: TypedDataFacts, requester: Requester
    ) -> tuple[Spending, ...]:
        """Return what the limits of hours and days count, which are for tenants."""
        tenant = requester.caller.tenant
        if tenant is None:
            return ()
        found = []
        for moved in facts.moved:
            network = self.networks[moved.network]
            limits = Limits.for_tenant(
                requester.limits, moved.network, network, moved.token
            )
            spending = Spending(
                network.chain_id,
                moved.token,
                network.tokens[moved.token].address,
                tenant,
                moved.recipient,
                moved.amount,
                limits,
            )
            found.append(spending)
        return tuple(found)

    def _describe(self, transaction: AnyTransaction) -> str:
        book = self._book(transaction.chain_id)
        to, value, data = transaction.to, transaction.value, transaction.data
        return describe_transaction(to, value, data, book)

    def _book(self, chain_id: int | None) -> AddressBook:
        return _NO_NAMES if chain_id is None else self._books.get(chain_id, _NO_NAMES)


def _hex_in(values: Any, coin: int) -> str:
    """
    Return the addresses and bytes in *values* as hex, and ``COIN`` if it moves *coin*.

    Contracts may read an address from a number as well.
    """
    if isinstance(values, Mapping):
        values = [*values.values()]
    if isinstance(values, list):
        found = " ".join(_hex_in(each, 0) for each in values)
    elif isinstance(values, bytes):
        found = values.hex()
    elif isinstance(values, int):
        found = f"{values & (2**256 - 1):064x}"
    else:
        is_hex = isinstance(values, str) and values.startswith("0x")
        found = values.lower() if is_hex else ""
    return f"{COIN} {found}" if coin else found

"""Makes the facts about messages, typed data, digests and authorisations."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from eth_utils.address import to_checksum_address

from signer.chain.calldata import decode_call
from signer.clear_signing.typed_data import MAX_NESTING, NOWHERE, UNKNOWN, Meaning
from signer.crypto.messages import TYPED_DATA, VALIDATOR
from signer.crypto.typed_data import TypedData
from signer.errors import EncodingError
from signer.policy.amount_limits import compare_amount
from signer.policy.facts import (
    AuthorizationFacts,
    Calldata,
    DigestFacts,
    KnownNetwork,
    KnownToken,
    MessageFacts,
    Moved,
    Surroundings,
    TypedDataFacts,
)


if TYPE_CHECKING:
    from eth_account.messages import SignableMessage


UNSEEN = "unseen"

_NO_ALLOWANCE = frozenset(
    {UNKNOWN, "safe-transaction", "user-operation", "votes-delegation"}
)


def message_facts(
    message: "SignableMessage", digest: bytes, surroundings: Surroundings
) -> MessageFacts | TypedDataFacts:
    """
    Return the facts about *message*, which is valid (``message_digest``).

    A message of typed data has only two hashes, so that no rule can know what it is.
    """
    if message.version == TYPED_DATA:
        return TypedDataFacts(
            caller=surroundings.caller,
            digest=digest,
            sender=surroundings.sender,
            at=surroundings.at,
            kind=UNSEEN,
        )
    is_for_validator = message.version == VALIDATOR
    return MessageFacts(
        caller=surroundings.caller,
        digest=digest,
        sender=surroundings.sender,
        at=surroundings.at,
        version="validator" if is_for_validator else "personal",
        length=len(message.body),
        text=_decode(message.body),
        validator=to_checksum_address(message.header).lower()
        if is_for_validator
        else None,
    )


def typed_data_facts(
    document: TypedData, meaning: Meaning, digest: bytes, surroundings: Surroundings
) -> TypedDataFacts:
    network = surroundings.network
    is_on_network = network is not None and document.chain_id == network.chain_id
    contract = (meaning.token or "").lower()
    token = network.tokens.get(contract) if network is not None else None
    calldata, named = Calldata.UNKNOWN, {document.verifying_contract or NOWHERE}
    try:
        named |= set(_addresses(document, document.primary_type, document.message))
    except EncodingError:
        calldata = Calldata.MALFORMED
    named = {address.lower() for address in named}
    leaving = list(_leaving(document, meaning, surroundings))
    return TypedDataFacts(
        caller=surroundings.caller,
        digest=digest,
        sender=surroundings.sender,
        at=surroundings.at,
        kind=meaning.kind,
        primary_type=document.primary_type,
        network=network.name if network is not None and is_on_network else None,
        chain_id=document.chain_id,
        domain_name=document.domain.get("name"),
        verifying_contract=_lower(document.verifying_contract),
        grants_allowance=meaning.kind not in _NO_ALLOWANCE,
        spender=_lower(meaning.spender),
        recipient=_lower(meaning.recipient),
        token=None if token is None else token.symbol,
        decimals=None if token is None else token.decimals,
        amount=meaning.amount if token is not None else None,
        moved=tuple(
            Moved(of.name, known.symbol, amount, recipient)
            for of, known, amount, recipient in leaving
        ),
        # A document costs the account no gas, so that a small amount is no harm.
        exceeded=frozenset(
            name
            for of, known, amount, _ in leaving
            for name in compare_amount(amount, known, of, surroundings)
            if name == "max-amount"
        ),
        names_token=any(
            not named.isdisjoint(each.tokens) for each in surroundings.networks
        ),
        is_denied=not named.isdisjoint(surroundings.denied),
        calldata=calldata,
    )


def _leaving(
    document: TypedData, meaning: Meaning, surroundings: Surroundings
) -> Iterator[tuple[KnownNetwork, KnownToken, int, str]]:
    """Yield each configured token that may leave: its network, amount and recipient."""
    sums: dict[str, int] = defaultdict(int)
    for grant in meaning.grants:
        sums[(grant.token or NOWHERE).lower()] += grant.amount
    recipient = meaning.recipient or meaning.spender or document.verifying_contract
    for network in surroundings.networks:
        for address, amount in sums.items():
            token = network.tokens.get(address)
            if token is not None:
                to = to_checksum_address(recipient or NOWHERE)
                yield network, token, amount, to


def _addresses(document: TypedData, type_: str, value: Any) -> Iterator[str]:
    """
    Yield every address in *value* of *type_*, also in the calls that it contains.

    Raises:
        EncodingError: A call of a known function is malformed, or nested too deeply.
    """
    if type_.endswith("]"):
        for item in value:
            yield from _addresses(document, type_[:-1].rpartition("[")[0], item)
    elif type_ in document.types:
        for member in document.types[type_]:
            yield from _addresses(document, member.type, value[member.name])
    elif type_ == "address":
        yield value
    elif type_ == "bytes":
        yield from _called_addresses(value)


def _called_addresses(data: bytes, depth: int = 0) -> Iterator[str]:
    call = decode_call(data)
    if call is not None and depth > MAX_NESTING:
        raise EncodingError(f"calls are nested deeper than {MAX_NESTING} levels")
    open_: list[Any] = [] if call is None else list(call.arguments)
    while open_:
        value = open_.pop()
        if isinstance(value, str):  # No other argument is a text.
            yield value
        elif isinstance(value, bytes):
            yield from _called_addresses(value, depth + 1)
        elif isinstance(value, tuple | list):
            open_ += value


def digest_facts(digest: bytes, surroundings: Surroundings) -> DigestFacts:
    return DigestFacts(
        caller=surroundings.caller,
        digest=digest,
        sender=surroundings.sender,
        at=surroundings.at,
    )


def authorization_facts(
    chain_id: int, delegate: str, digest: bytes, surroundings: Surroundings
) -> AuthorizationFacts:
    return AuthorizationFacts(
        caller=surroundings.caller,
        digest=digest,
        sender=surroundings.sender,
        at=surroundings.at,
        chain_id=chain_id,
        delegate=delegate.lower(),
        is_service_wallet=surroundings.is_service_wallet,
    )


def _decode(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _lower(address: str | None) -> str | None:
    return None if address is None else address.lower()

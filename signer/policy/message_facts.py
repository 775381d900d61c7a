"""Makes the facts about messages, typed data, digests and authorisations."""

from eth_account.messages import SignableMessage
from eth_utils.address import to_checksum_address

from signer.clear_signing.typed_data_kinds import UNKNOWN, Meaning
from signer.crypto.messages import TYPED_DATA, VALIDATOR
from signer.crypto.typed_data import TypedData
from signer.policy.facts import (
    AuthorizationFacts,
    DigestFacts,
    MessageFacts,
    TypedDataFacts,
)
from signer.policy.surroundings import Surroundings


UNSEEN = "unseen"

_NO_ALLOWANCE = frozenset({UNKNOWN, "safe-transaction"})


def message_facts(
    message: SignableMessage, digest: bytes, surroundings: Surroundings
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
    """Return the facts about *document*, which was recognised as *meaning*."""
    network = surroundings.network
    is_on_network = network is not None and document.chain_id == network.chain_id
    contract = (meaning.token or "").lower()
    token = network.tokens.get(contract) if network is not None else None
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
    )


def digest_facts(digest: bytes, surroundings: Surroundings) -> DigestFacts:
    """Return the facts about *digest*, of which nothing else is known."""
    return DigestFacts(
        caller=surroundings.caller,
        digest=digest,
        sender=surroundings.sender,
        at=surroundings.at,
    )


def authorization_facts(
    chain_id: int, delegate: str, digest: bytes, surroundings: Surroundings
) -> AuthorizationFacts:
    """Return the facts about an authorisation for the code of *delegate*."""
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

"""Describes typed data and personal messages in one line."""

from signer.clear_signing.calls import (
    AddressBook,
    describe_transaction,
    quote,
    write_time,
)
from signer.clear_signing.typed_data_kinds import (
    NOWHERE,
    UNKNOWN,
    Grant,
    Meaning,
    recognise,
)
from signer.crypto.messages import PersonalMessage
from signer.crypto.typed_data import TypedData


MAX_GRANTS = 8
"""Tokens of one document that are described; the others are counted."""

_MANAGERS = frozenset({"nft-permit-for-all", "lending-manager"})


def describe_typed_data(document: TypedData, book: AddressBook) -> str:
    """
    Return what *document* permits, on one line.

    A document of an unknown kind is described by its type and its domain only.
    """
    meaning = recognise(document)
    about = _describe_domain(document, book)
    if meaning.kind == UNKNOWN:
        return f"sign {quote(document.primary_type)}{about}"
    text = _describe(meaning, document, book)
    if meaning.deadline is not None:
        text += f" {write_time(meaning.deadline)}"
    return f"{text} ({meaning.kind}){about}"


def describe_message(message: PersonalMessage) -> str:
    """Return *message* on one line, in quotes and shortened, or its size."""
    if message.text is None:
        return f"sign a message of {len(message.body)} bytes"
    return f"sign the message {quote(message.text)}"


def _describe(meaning: Meaning, document: TypedData, book: AddressBook) -> str:
    m = document.message
    # The document names at least one of them.
    other = book.address(meaning.spender or meaning.recipient or NOWHERE)
    if meaning.called is not None:
        inner = describe_transaction(*meaning.called, book)
        if meaning.kind != "safe-transaction":
            return f"let any address send for this account: {inner}"
        # A delegate call runs foreign code in the Safe's own name.
        how = {0: "", 1: " by delegate call"}.get(
            m["operation"], " by an unknown operation"
        )
        return f"approve a Safe transaction{how}: {inner}"
    if meaning.kind in _MANAGERS:
        grants = m.get("approved", m.get("isAllowed", m.get("isAuthorized")))
        word = "yes" if grants else "no"
        return f"let {other} manage everything in the contract: {word}"
    if meaning.kind.endswith("-order"):
        paid_to = f", paid to {other}" if meaning.recipient else ""
        return f"offer {_grants(meaning, book)} for sale{paid_to}"
    words = {
        "erc3009-transfer": "authorise a transfer of {grants} to {other}",
        "erc3009-receive": "authorise a transfer of {grants} to {other}",
        "nft-permit": "permit {other} to move token id {id}",
        "aave-credit-delegation": "let {other} borrow {grants} for this account",
        "votes-delegation": "delegate all votes to {other}",
        "user-operation": "approve a user operation of {other} with {size}",
    }.get(meaning.kind, "permit {other} to spend {grants}")
    return words.format(
        other=other,
        grants=_grants(meaning, book),
        id=m.get("tokenId"),
        size=f"{len(m.get('callData', b''))} bytes of calldata",
    )


def _describe_domain(document: TypedData, book: AddressBook) -> str:
    parts = []
    if "name" in document.domain:
        parts.append(f"for {quote(document.domain['name'])}")
    if document.verifying_contract is not None:
        parts.append(f"at {book.address(document.verifying_contract)}")
    if document.chain_id is not None:
        parts.append(f"on chain {document.chain_id}")
    return "".join(f" {part}" for part in parts)


def _grants(meaning: Meaning, book: AddressBook) -> str:
    shown = [_grant(each, book) for each in meaning.grants[:MAX_GRANTS]]
    if len(meaning.grants) > MAX_GRANTS:
        shown.append(f"{len(meaning.grants) - MAX_GRANTS} more")
    return " and ".join(shown) or "nothing"


def _grant(grant: Grant, book: AddressBook) -> str:
    return book.amount(grant.amount, grant.token)

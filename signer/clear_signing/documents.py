"""Describes typed data and personal messages in one line."""

from signer.clear_signing.calls import describe_transaction
from signer.clear_signing.names import AddressBook, quote, write_time
from signer.clear_signing.typed_data_kinds import Grant, Meaning, recognise
from signer.crypto.messages import PersonalMessage
from signer.crypto.typed_data import TypedData


MAX_GRANTS = 8
"""Tokens of one document that are described; the others are counted."""


def describe_typed_data(document: TypedData, book: AddressBook) -> str:
    """
    Return what *document* permits, on one line.

    A document of an unknown kind is described by its type and its domain only.
    """
    meaning = recognise(document)
    if meaning.kind == "safe-transaction":
        text = _describe_safe(document, book)
    elif meaning.kind in {"erc3009-transfer", "erc3009-receive"}:
        text = f"authorise a transfer of {_grants(meaning, book)}"
        text += f" to {book.address(document.message['to'])}"
    elif meaning.spender is not None:
        spender = book.address(meaning.spender)
        text = f"permit {spender} to spend {_grants(meaning, book)}"
    elif meaning.kind.startswith("seaport"):
        text = f"offer {_grants(meaning, book)} for sale"
    else:
        return f"sign {quote(document.primary_type)}{_describe_domain(document, book)}"
    if meaning.deadline is not None:
        text += f" {write_time(meaning.deadline)}"
    return f"{text} ({meaning.kind}){_describe_domain(document, book)}"


def describe_message(message: PersonalMessage) -> str:
    """Return *message* on one line, in quotes and shortened, or its size."""
    if message.text is None:
        return f"sign a message of {len(message.body)} bytes"
    return f"sign the message {quote(message.text)}"


def _describe_safe(document: TypedData, book: AddressBook) -> str:
    m = document.message
    inner = describe_transaction(m["to"], m["value"], m["data"], book)
    # A delegate call runs foreign code in the Safe's own name.
    how = {0: "", 1: " by delegate call"}.get(
        m["operation"], " by an unknown operation"
    )
    return f"approve a Safe transaction{how}: {inner}"


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

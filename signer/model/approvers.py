"""
The people who approve with keys of their own, as one TOML file names them.

::

    deployment = "refunds, production"
    page = "https://approve.example/approve.html"

    [people.alice]
    groups = ["finance"]

    [people.alice.keys]
    yubikey = "webauthn dGhlIGNyZWRlbnRpYWw MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE..."
    laptop = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t..."

Each person signs one text, which is made of the stored proposal.  So neither the issuer
of tokens nor a host or the database can approve, or show anything else than is signed.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from signer import strict_json
from signer.crypto import approver_keys
from signer.crypto.approver_keys import ApproverKey, ApproverSignature
from signer.errors import (
    ConfigurationError,
    InvalidInputError,
    PermissionDeniedError,
    Refusal,
    SamePersonError,
)
from signer.model.approval import REFUND_PAY, Approval
from signer.model.audit_record import identify


HEADER = "hotwallet approval 1"
"""The first line of a text: it is signed as nothing else."""

_TOGETHER = 2
"""How many people approve what an administrator asks for, who may be one of them."""

_NAME = re.compile(r"[!-~]{1,128}")

_DEPLOYMENT = re.compile(r"[ -~]{1,64}")

_LOCAL = "http", "localhost"

_PORTS = {"http": 80, "https": 443}


class Consent(StrEnum):
    """What a person decides with a signature."""

    APPROVE = "approve"
    BREAK_GLASS = "break-glass"


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed: the canonical JSON of a proposal, and until when it counts."""

    proposal: str
    expires_at: datetime

    @classmethod
    def of(cls, approval: Approval) -> Self:
        return cls(approval.proposal, approval.expires_at)


@dataclass(frozen=True, slots=True)
class Signed:
    """Who signed, with which of their keys, and the signature in its stored form."""

    approver: str
    key: str
    consent: Consent
    signature: ApproverSignature

    def added_to(self, signatures: str | None) -> str:
        """Return *signatures* as a row has them, and this one."""
        return "\n".join(
            filter(None, [signatures, f"{self.consent} {self.signature.text}"])
        )


@dataclass(frozen=True)
class Approvers:
    """The content of the file; ``document`` is its TOML."""

    document: Mapping[str, Any]
    deployment: str
    page: str
    groups: Mapping[str, frozenset[str]]
    keys: Mapping[str, tuple[str, str, ApproverKey]] = field(repr=False)
    """The name of the person, the name of the key, and the key, by its id."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """
        Return the approvers of a *document*.

        Raises:
            ValueError: It has another form; the message names the table.
        """
        _require_members(document, {"deployment", "people"}, {"page"}, "the file")
        deployment, page = document["deployment"], document.get("page", "")
        if not isinstance(deployment, str) or not _DEPLOYMENT.fullmatch(deployment):
            raise ValueError("deployment: must be 1 to 64 characters of ASCII")
        _require_page(page)
        people = document["people"]
        if not isinstance(people, dict) or len(people) < _TOGETHER:
            raise ValueError("people: at least two must be able to approve")
        if len({name.casefold() for name in people}) != len(people):
            raise ValueError("people: two names differ in upper and lower case only")
        groups = {name: _read_groups(name, each) for name, each in people.items()}
        keys: dict[str, tuple[str, str, ApproverKey]] = {}
        listed = set[bytes]()
        for name, each in people.items():
            for key_name, key in _read_keys(name, each["keys"], has_page=bool(page)):
                # One key has several forms, and may be two credentials.
                if key.public in listed or key.id in keys:
                    raise ValueError(f"people.{name}.keys: a key is listed twice")
                listed.add(key.public)
                keys[key.id] = (name, key_name, key)
        return cls(document, deployment, page, groups, keys)

    def text(self, approver: str, consent: Consent, statement: Statement) -> str:
        """
        Return what *approver* signs.  It is ASCII, so that it looks like what it is.

        Raises:
            InvalidInputError: The file does not name *approver*.
        """
        if approver not in self.groups:
            raise InvalidInputError(
                "is none of APPROVERS_FILE: give the name of a person in it",
                field="approver",
            )
        facts = strict_json.parse(statement.proposal.encode())
        at = statement.expires_at.astimezone(UTC)
        lines = [
            HEADER,
            f"deployment: {self.deployment}",
            f"approver: {approver}",
            f"decision: {consent}",
            f"action: {json.dumps(facts.pop('action'))}",
            *(f"  {json.dumps(name)}: {json.dumps(facts[name])}" for name in facts),
            f"digest: {sha256(statement.proposal.encode()).hexdigest()}",
            f"expires: {at.isoformat(timespec='microseconds')}",
        ]
        return "".join(f"{line}\n" for line in lines)

    def link(self, text: str) -> str | None:
        """Return the URL at which the page shows *text*; None without a page."""
        encoded = approver_keys.encode(text.encode())
        return f"{self.page}#{encoded}" if self.page else None

    def verify(self, signature: str, consent: Consent, statement: Statement) -> Signed:
        """
        Return who made *signature* of *statement*.

        Raises:
            InvalidInputError: It has another form.
            PermissionDeniedError: It is not one of an approver's key, or of this text.
        """
        found = approver_keys.parse_signature(signature)
        if found.key_id not in self.keys:
            raise PermissionDeniedError(
                "the signature is of a key that APPROVERS_FILE does not have"
            )
        name, key_name, key = self.keys[found.key_id]
        text = self.text(name, consent, statement)
        try:
            approver_keys.verify(key, found, text, self.page)
        except ValueError as e:
            raise PermissionDeniedError(
                f"the signature is not one of what {name} would sign to {consent} this:"
                f" {e}; get the text again"
            ) from None
        return Signed(name, key_name, consent, found)

    def require(self, approval: Approval, signature: str, consent: Consent) -> Signed:
        """
        Return who made *signature* of *approval*, and may.

        Raises:
            PermissionDeniedError: As ``verify``, or the person is not in a group that
                the rules demand.
            SamePersonError: The person has requested the refund.
        """
        found = self.verify(signature, consent, Statement.of(approval))
        if consent is Consent.BREAK_GLASS or approval.action != REFUND_PAY:
            return found
        need = approval.need
        if need is None or not need.groups <= self.groups[found.approver]:
            raise PermissionDeniedError(
                "only some people can approve it: the signer is not in the groups that"
                " the rules demand"
            )
        if identify(found.approver).casefold() == approval.requested_by.casefold():
            raise SamePersonError(
                "another person must approve it: you asked for the refund"
            )
        return found

    def given(self, approval: Approval) -> Mapping[str, Consent]:
        """
        Return who has signed *approval*, by signatures that count today.

        It is empty if another program changed the row.
        """
        found: dict[str, Consent] = {}
        if not approval.verified().is_authentic:
            return found
        for consent, signature in read_signatures(approval):
            with suppress(PermissionDeniedError):  # Such as that of a removed key.
                signed = self.require(approval, signature.text, consent)
                found[signed.approver] = consent
        return found

    def needed(self, approval: Approval) -> int:
        """Return how many people must sign *approval*."""
        return approval.needed if approval.action == REFUND_PAY else _TOGETHER

    def accepts(self, approval: Approval) -> bool:
        """Return whether enough people have signed *approval*, or one alone."""
        given = self.given(approval)
        is_alone = Consent.BREAK_GLASS in given.values()
        return is_alone or len(given) >= self.needed(approval)


def read_signatures(
    approval: Approval,
) -> Iterator[tuple[Consent, ApproverSignature]]:
    """Yield the signatures of *approval* that can be read, and what each decides."""
    for line in (approval.signatures or "").splitlines():
        name, _, text = line.partition(" ")
        with suppress(InvalidInputError, ValueError):
            yield Consent(name), approver_keys.parse_signature(text)


def write_evidence(approval: Approval, signed: Signed) -> Mapping[str, str]:
    """Return what a record needs for ``verify_evidence``."""
    return {
        "approver": signed.approver,
        "expires_at": approval.expires_at.isoformat(),
        "proposal": approval.proposal,
        "signed": signed.signature.text,
    }


def load_approvers(path: Path | None) -> Approvers | None:
    """
    Return the approvers in the file at *path*; None without one.

    Raises:
        ConfigurationError: ``approvers-invalid``.
    """
    if path is None:
        return None
    try:
        return Approvers.parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as e:
        problem = f"the file cannot be read ({type(e).__name__})"
    except tomllib.TOMLDecodeError as e:
        problem = f"the file is not TOML: {e}"
    except ValueError as e:
        problem = str(e)
    # Do not show the path: it may be a secret in the wrong variable.
    raise ConfigurationError(Refusal("approvers-invalid", f"APPROVERS_FILE: {problem}"))


def _require_members(
    table: object, demanded: set[str], others: set[str], where: str
) -> None:
    members = table.keys() if isinstance(table, dict) else {""}
    if not demanded <= members <= demanded | others:
        names = ", ".join(sorted(demanded | others))
        raise ValueError(f"{where} must be a table of {names}")


def _require_page(page: object) -> None:
    if page == "":
        return
    parts = urlsplit(page) if isinstance(page, str) else None
    # A browser has keys for no page that is reached over http, except on its own host.
    if parts is None or not (
        (parts.scheme == "https" or (parts.scheme, parts.hostname) == _LOCAL)
        and parts.hostname
        and not (parts.username or parts.query or parts.fragment)
        and parts.netloc == parts.netloc.lower()
        and parts.port != _PORTS[parts.scheme]  # Browsers leave it out.
    ):
        raise ValueError("page: must be the https URL of the approval page")


def _read_groups(name: str, person: object) -> frozenset[str]:
    _require_members(person, {"keys"}, {"groups"}, f"people.{name}")
    groups = person.get("groups", []) if isinstance(person, dict) else None
    if not _NAME.fullmatch(name):
        raise ValueError("people: a name must be visible ASCII, without spaces")
    if not isinstance(groups, list) or not all(
        isinstance(each, str) for each in groups
    ):
        raise ValueError(f"people.{name}.groups: must be a list of names")
    return frozenset(groups)


def _read_keys(
    name: str, keys: object, *, has_page: bool
) -> Iterator[tuple[str, ApproverKey]]:
    if not isinstance(keys, dict) or not keys:
        raise ValueError(f"people.{name}.keys: must be a table of keys")
    for key_name, line in keys.items():
        where = f"people.{name}.keys.{key_name}"
        try:
            key = approver_keys.parse_key(line if isinstance(line, str) else "")
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from None
        if key.is_webauthn and not has_page:
            raise ValueError(f"{where}: a WebAuthn key needs the file's page")
        yield key_name, key

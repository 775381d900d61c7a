"""
The names of rules and reasons for which something is refused, and the text of rules.

A rule's name is the ``rule`` of ``PolicyViolationError``.  ``docs/reference/policy.md``
lists them.  Cedar's parser and validator do not report where an error is, so each rule
of a text is given to them alone.  Addresses are written with their checksum, as
everywhere in the configuration, and compared in lower case: a ``forbid`` with other
letters would never apply.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eth_utils.address import is_checksum_address

from signer.config.networks import SIGNED_TYPES
from signer.policy.facts import (
    AnyFacts,
    Calldata,
    DigestFacts,
    MessageFacts,
    Path,
    RecipientKind,
    Shape,
    TransactionFacts,
    TypedDataFacts,
)


NOT_PERMITTED = "not-permitted"
"""No rule permits it, and there is no reason that could be named."""

POLICY_ERROR = "policy-error"
"""A rule could not be evaluated."""

NO_DECISION = "no-decision"
"""A path did not ask the policy, which is a bug of this program."""

DENIED = "recipient-denied"
"""The deny list has the recipient."""

APPROVE_ABOVE = "approve-above"
"""The amount is above what is paid without an approval."""

RESERVED = frozenset({NOT_PERMITTED, POLICY_ERROR, NO_DECISION})

RULES: Mapping[str, str] = {
    "chain-id": "the chain id is 0, or not the network's",
    "calldata": "the arguments of a known function are not in canonical encoding",
    "extra-calldata": "there are bytes after the arguments of a known function",
    "vault": "it calls the vault, which only batches of refunds may do",
    "delegation": "an authorisation (EIP-7702) gives the whole account to a contract",
    "service-wallet": "the service pays refunds from this address, and pauses when it"
    " finds a nonce that it did not reserve: send with eth_sendTransaction or POST"
    " /v1/refunds",
    "gas": "the gas limit is above the token's max_gas, or above 2**24",
    "max-fee": "the fee per gas is above the network's max_fee_per_gas_gwei",
    APPROVE_ABOVE: "the amount is above approve_above of the token or the tenant",
    "max-amount": "the amount is above max_amount of the token or the tenant",
    "min-amount": "the amount is below min_amount of the token or the tenant",
    DENIED: "its address is denied (DENY_LIST_FILE, or the service of SCREENING_URL)",
    "network": "the chain is not a configured network",
    "transaction-type": "blob (EIP-4844) and set-code (EIP-7702) transactions are"
    " refused",
    "creation": "the transaction creates a contract",
    "allowance": "it lets another address take tokens: an approval, a permit or an"
    " order",
    "token": "transfer is called on an address that is no configured token",
    "value": "coin is sent with calldata",
    "coin": "coin is sent",
    "recipient": "the recipient is the zero address, a token's contract or a key of"
    " ours, or not the one that the path may pay",
    "memo": "the calldata does not end with the memo of the refund",
    "tenant": "the tenant is not in TENANTS_FILE",
    "function": "the function or the contract is not one that may be called",
    "empty": "the transaction does nothing, and is no no-op of the service",
    "message-digest": "a message of 32 bytes may be the hash of something else",
    "message": "messages are not signed",
    "typed-data": "only a rule of the operator permits it, because a contract could"
    " read it as an order or a permit",
    "digest": "32 bytes without a meaning may be the digest of a transaction",
    NOT_PERMITTED: "no rule permits it",
    POLICY_ERROR: "a rule of the policy could not be evaluated",
    NO_DECISION: "the policy was not asked, which is a bug of this program",
}

_LIKE_A_DIGEST = 32
_ELSEWHERE = frozenset({RecipientKind.OTHER, RecipientKind.NONE})

# What no default permits, in the order of ``Decision.rules``.
_OF_TRANSACTIONS: Sequence[tuple[str, Callable[[TransactionFacts], bool]]] = (
    ("network", lambda f: f.network is None and f.caller.path is not Path.ACCOUNT),
    ("transaction-type", lambda f: f.type not in SIGNED_TYPES),
    ("gas", lambda f: "gas" in f.exceeded),
    ("creation", lambda f: f.shape is Shape.CREATION),
    ("allowance", lambda f: f.grants_allowance),
    ("token", lambda f: f.function == "transfer(address,uint256)" and f.token is None),
    ("value", lambda f: f.value > 0 and f.data_bytes > 0),
    ("recipient", lambda f: f.recipient_kind not in _ELSEWHERE),
    (
        "memo",
        lambda f: (
            f.caller.path in {Path.REFUND, Path.SWEEP}
            and f.shape is Shape.TOKEN_TRANSFER
            and f.calldata is not Calldata.WITH_MEMO
        ),
    ),
    (
        "recipient",
        lambda f: (
            f.caller.path is Path.SWEEP and f.recipient_kind is RecipientKind.OTHER
        ),
    ),
    ("coin", lambda f: f.shape is Shape.COIN_TRANSFER),
    ("function", lambda f: f.shape is Shape.CALL),
    ("empty", lambda f: f.shape is Shape.EMPTY),
)


def reasons(facts: AnyFacts) -> tuple[str, ...]:
    """Return the names of what *facts* have and no default permits."""
    match facts:
        case TransactionFacts():
            found = [name for name, holds in _OF_TRANSACTIONS if holds(facts)]
        case MessageFacts():
            found = ["message-digest"] * (facts.length == _LIKE_A_DIGEST) + ["message"]
        case TypedDataFacts():
            found = ["allowance"] * facts.grants_allowance + ["typed-data"]
        case DigestFacts():
            found = ["digest"]
        case _:
            found = ["delegation"]
    return tuple(dict.fromkeys(found)) or (NOT_PERMITTED,)


_PART = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|;|\n|[^\s]', re.DOTALL)

_HEX = re.compile(r'(?<!:)"0[xX][0-9a-fA-F*]*"')  # No id, such as Tenant::"0xAB".
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """The *text* of a policy, and the *name* that errors show."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class RuleText:
    """One rule: its text, its file, and the line (from 1) that it starts on."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"


def split_statements(file: PolicyFile) -> Iterator[RuleText]:
    """
    Yield each rule of *file*.

    A rule ends with ``;``, which may also be in a string or a comment.  What follows
    the last one is a rule as well, if it is more than comments: Cedar then reports that
    it is incomplete.
    """
    line = first_line = 1
    start: int | None = None
    for match in _PART.finditer(file.text):
        part = match.group()
        if part != "\n" and not part.startswith("//") and start is None:
            start, first_line = match.start(), line
        line += part.count("\n")
        if part == ";" and start is not None:
            yield RuleText(file.name, first_line, file.text[start : match.end()])
            start = None
    if start is not None:
        yield RuleText(file.name, first_line, file.text[start:])


def find_wrong_address(text: str) -> str | None:
    """Return the first address in *text* with a wrong checksum; None without one."""
    for match in _HEX.finditer(text):
        written = match.group()[1:-1]
        if _ADDRESS.fullmatch(written) and not _is_correct(written):
            return written
    return None


def lower_addresses(text: str) -> str:
    """Return *text* with every string of hexadecimal digits in lower case."""
    return _HEX.sub(lambda match: match.group().lower(), text)


def _is_correct(address: str) -> bool:
    return address == address.lower() or is_checksum_address(address)

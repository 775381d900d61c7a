"""
The names of the rules in the policies that this project makes, and what they mean.

A rule's name is the ``rule`` of ``PolicyViolationError``.  ``docs/reference/policy.md``
lists them.
"""

from collections.abc import Mapping


NOT_PERMITTED = "not-permitted"
"""No rule permits it, and none explains why."""

POLICY_ERROR = "policy-error"
"""A rule could not be evaluated."""

NO_DECISION = "no-decision"
"""A path did not ask the policy, which is a bug of this program."""

DENIED = "recipient-denied"
"""The deny list has the recipient."""

RESERVED = frozenset({NOT_PERMITTED, POLICY_ERROR, NO_DECISION})

RULES: Mapping[str, str] = {
    "chain-id": "the chain id is 0, or not the network's",
    "calldata": "the arguments of a known function are not in canonical encoding",
    "extra-calldata": "there are bytes after the arguments of a known function",
    "delegation": "an authorisation (EIP-7702) gives the whole account to a contract",
    "service-wallet": "the service pays refunds from this address, and pauses when it"
    " finds a nonce that it did not reserve: send with eth_sendTransaction or POST"
    " /v1/refunds",
    "gas": "the gas limit is above the token's max_gas, or above 2**24",
    "max-fee": "the fee per gas is above the network's max_fee_per_gas_gwei",
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
    "mark": "the calldata does not end with the mark of the refund",
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

"""An account with a key in SoftHSM signs what eth-account recovers."""

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.types import TransactionDictType

from hotwallet import PolicyViolationError, account_policy, open_account


account = open_account()
message = encode_defunct(text="hello")
signed = account.sign_message(message)
assert Account.recover_message(message, signature=signed.signature) == account.address

strict = open_account(
    policy=account_policy(
        '@id("none") forbid (principal, action == Action::"sign-message", resource);'
    )
)
try:
    strict.sign_message(message)
except PolicyViolationError as refused:
    assert refused.rule == "none", refused
else:
    raise AssertionError("the policy was not asked")

fields: TransactionDictType = {
    "to": account.address,
    "value": 0,
    "gas": 21_000,
    "nonce": 0,
    "maxFeePerGas": 10**9,
    "maxPriorityFeePerGas": 0,
    "chainId": 1,
}
raw = account.sign_transaction(fields).raw_transaction
assert Account.recover_transaction(raw) == account.address

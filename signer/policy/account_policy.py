"""The policy of an account that a program opens (``HSMAccount``)."""

from functools import lru_cache

from signer.policy.default_rules import ACCOUNT, SHARED_ACCOUNT
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile


@lru_cache(maxsize=64)
def account_policy(own: str = "", *, shares_service_wallet: bool = False) -> Policy:
    """
    Return the default policy of accounts, and *own* rules in Cedar that extend it.

    ::

        account_policy('''
            @id("digests")
            permit (principal, action == Action::"sign-digest", resource);
        ''')

    With *shares_service_wallet*, an account with a ledger may also use nonces of an
    address from which the service pays.  The service then pauses the wallet, until an
    operator accepts the transactions (``hotwallet nonce repair``).

    Raises:
        ConfigurationError: ``policy-invalid``: a rule of *own* cannot be used; the
            message has its line.
    """
    files = [PolicyFile("policy", own)] if own else []
    return Policy.compile(SHARED_ACCOUNT if shares_service_wallet else ACCOUNT, files)

"""
Finds out which approvals a refund needs before it is paid, if any.

The policy is asked about the transaction that would pay the refund.  Nothing has been
estimated yet, so it has the largest gas limit of the token, a call the smallest one,
and no fees; the policy is asked again about the real one, before the nonce and before
the signature.
"""

from signer.config.networks import Network
from signer.crypto.transactions import MAX_GAS
from signer.model.approval_need import ApprovalNeed
from signer.model.decision import Decision
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund
from signer.model.transaction import Kind
from signer.refunds.payment_checks import NOOP_GAS, ZERO_ADDRESS
from signer.refunds.payment_policy import PaymentPolicy
from signer.refunds.transaction_signer import (
    Attempt,
    build_transaction,
    expect,
)


def find_need(
    policy: PaymentPolicy, refund: Refund, network: Network
) -> ApprovalNeed | None:
    """
    Return the approvals that *refund* needs; None if it needs none.

    A sweep pays an address of the wallet, and is requested by an administrator: the
    policy refuses one that would need an approval.

    Raises:
        StoreError: The key ring could not be read.
    """
    if refund.bound_sender is not None or not policy.policy.has_approvals:
        return None
    return decide(policy, refund, network).need


def decide(policy: PaymentPolicy, refund: Refund, network: Network) -> Decision:
    """Return the decision about the transaction that would pay *refund*."""
    token = network.tokens.get(refund.token)
    gas = MAX_GAS if token is None else token.max_gas
    if refund.purpose is PaymentPurpose.CALL:
        gas = NOOP_GAS  # The largest one would exceed the limit of any rule.
    sender = refund.sender or policy.active_address or ZERO_ADDRESS
    attempt = Attempt(Kind.TRANSFER, 0, gas, 0, 0, is_legacy=False)
    expected = expect(refund, sender, gas)
    built = build_transaction(expected, attempt)
    is_reserved = refund.nonce is not None
    return policy.evaluate(
        built,
        built.signing_digest(),
        expected,
        network,
        is_reserved=is_reserved,
    )

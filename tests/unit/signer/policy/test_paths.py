"""Every path to a signature asks the policy; a path that forgets it fails here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from signer.errors import PolicyViolationError
from signer.model.audit_record import Operation, Purpose
from tests.support.policy import permitted
from tests.support.refunds import signer as new_signer


ROOT = Path(__file__).parents[4]
PACKAGES = ("signer", "api", "backends", "softhsm")
SIGNING = {"announce", "sign", "sign_digest"}
PRIVATE = {"_announce", "_sign", "_announce_and_sign"}

# Who decides about each call: the policy, or why it is none of a wallet's key.
CALLS = {
    # The paths: each is a function that asks the policy first.
    ("signer/signing/service.py", "SigningService._sign"): "policy",
    ("signer/account.py", "HSMAccount.unsafe_sign_hash"): "the path above",
    ("signer/refunds/transaction_signer.py", "TransactionSigner.build_and_sign"): (
        "policy"
    ),
    # Parts of the paths: ``Signer`` requires the decision of the purpose.
    (
        "signer/refunds/transaction_signer.py",
        "TransactionSigner._open_signer",
    ): "decision",
    ("signer/keys/keyring.py", "KeyRing.announce"): "decision",
    ("signer/keys/keyring.py", "KeyRing.sign_digest"): "decision",
    ("signer/refunds/attempts.py", "Attempts._sign_all"): "plans of the first path",
    ("signer/keys/signer.py", "Signer._sign_and_verify"): "the device",
    # The devices themselves.
    ("backends/pkcs11/backend.py", "PKCS11Backend.sign_digest"): "the device",
    ("backends/aws_kms/backend.py", "KMSBackend.sign_digest"): "the device",
    ("backends/aws_kms/client.py", "read_client_parts"): "no request",
    ("softhsm/doctor.py", "_sign"): "self-test",
    ("softhsm/keys.py", "_signs_as"): "self-test",
    ("softhsm/keys.py", "self_test"): "self-test",
    # Other keys, and other things of the same name.
    ("signer/audit/checkpointer.py", "Checkpointer._sign"): "checkpoint key",
    ("signer/audit/checkpoints.py", "CheckpointKey.sign_text"): "checkpoint key",
    ("backends/aws_kms/service_keys.py", "KMSEd25519Key.sign"): "checkpoint key",
    ("api/extras/audit_report/commands.py", "report"): "checkpoint key",
    ("signer/refunds/acceptance.py", "RefundAcceptor._log_created"): "an approval",
    ("signer/approvals.py", "Approvals._sign"): "an approval",
    (
        "signer/refunds/payment_approvals.py",
        "PaymentApprovals._propose_again",
    ): "an approval",
    ("signer/webhooks/signatures.py", "Secret.is_valid"): "webhook key",
    ("signer/webhooks/signatures.py", "PrivateKey.sign"): "webhook key",
    ("signer/webhooks/signatures.py", "sign"): "webhook key",
    ("signer/webhooks/endpoint.py", "Endpoint.send"): "webhook key",
    ("api/extras/screening/client.py", "ScreeningClient._ask"): "screening secret",
    (
        "api/extras/batch_files/request_signing.py",
        "RequestSigner.__call__",
    ): "a tenant's key",
}


def _calls(names: set[str]) -> Iterator[tuple[str, str]]:
    """Yield file and function of each call of a method or class with one of *names*."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name, text = path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
            if name == "backends/testing.py":  # Tests, for other packages.
                continue
            if any(each in text for each in names):  # Parsing takes ten times longer.
                for function in _walk(ast.parse(text), (), names):
                    yield name, function


def _walk(node: ast.AST, scope: tuple[str, ...], names: set[str]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inner = scope
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and len(scope) < 2:
            inner = (*scope, child.name)
        if isinstance(child, ast.Call):
            called = child.func
            name = getattr(called, "attr", getattr(called, "id", None))
            owner = getattr(called, "value", None)
            is_own = owner is None or getattr(owner, "id", None) == "self"
            if name in names and not (name in PRIVATE and is_own):
                yield ".".join(inner)
        yield from _walk(child, inner, names)


def test_every_call_that_signs_is_known() -> None:
    """A new one needs its line in ``CALLS``, and its call of ``Policy.require``."""
    assert set(_calls(SIGNING)) == CALLS.keys()


def test_what_needs_no_decision_is_private() -> None:
    """Only a signer itself calls what does not ask for the decision."""
    assert list(_calls(PRIVATE)) == []


def test_each_path_asks_the_policy() -> None:
    """The function that signs has asked before, or its policy has (refunds)."""
    asking = set(_calls({"require"}))
    paths = {place for place, kind in CALLS.items() if kind == "policy"}

    assert paths <= asking
    assert ("signer/refunds/payment_policy.py", "PaymentPolicy.require") in asking


def test_only_the_policy_decides() -> None:
    """Nothing else makes a decision, and nothing replaces a part of one."""
    assert set(_calls({"Decision"})) == {
        ("signer/policy/policy.py", "Policy.evaluate"),
        ("signer/policy/policy.py", "Policy._refuse"),
    }


def test_a_signer_demands_the_decision() -> None:
    """Without one, or with that about another digest, the device is not asked."""
    signer = new_signer()
    digest, other = b"\x01" * 32, b"\x02" * 32
    purpose = Purpose(Operation.TRANSACTION_SIGNING)

    for each in (purpose, permitted(other, purpose)):
        for sign in (signer.sign, signer.sign_digest, signer.announce):
            with pytest.raises(PolicyViolationError) as refused:
                sign(digest, each)
            assert refused.value.rule == "no-decision"
    assert signer.sign_digest(digest, permitted(digest, purpose))


def test_a_self_test_needs_none() -> None:
    """It signs a random digest that it makes itself."""
    new_signer().self_test()

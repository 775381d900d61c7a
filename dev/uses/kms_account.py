"""
An account with a key in AWS KMS, opened as documented.

Our emulator stands for KMS.  moto alone shows the address, and its signatures are
refused: it does not implement ``MessageType=DIGEST``, and hashes the digest again.
"""

import os

import boto3  # type: ignore[import-untyped]
from eth_account import Account
from eth_account.messages import encode_defunct

from hotwallet import HSMAccount, KMSBackend, RecoveryError, build_kms_client


def open_account(endpoint: str) -> HSMAccount:
    kms = boto3.client("kms", "eu-central-1", endpoint_url=endpoint)
    key = kms.create_key(KeySpec="ECC_SECG_P256K1", KeyUsage="SIGN_VERIFY")
    client = build_kms_client(
        "eu-central-1",
        endpoint_url=endpoint,
        max_retries=3,
        timeout_ms=9_000,
        max_pool_connections=10,
    )
    return HSMAccount.open(KMSBackend(client), key["KeyMetadata"]["Arn"])


message = encode_defunct(text="hello")
account = open_account(os.environ["KMS_ENDPOINT"])
signed = account.sign_message(message)
assert Account.recover_message(message, signature=signed.signature) == account.address

on_moto = open_account(os.environ["MOTO_ENDPOINT"])
assert on_moto.address.startswith("0x")
try:
    on_moto.sign_message(message)
except RecoveryError as refused:
    assert "hashed the digest again" in str(refused), refused
else:
    raise AssertionError("moto signs as KMS does: say so in docs/reference/library.md")

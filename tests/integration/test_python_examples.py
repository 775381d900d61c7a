"""The Python of the README, the library's page and the guide for web3.py runs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data

from backends.aws_kms.backend import KMSBackend
from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from backends.pkcs11 import PKCS11Backend
from dev import stablecoin as coin
from dev.google_kms_emulator import GoogleKMSEmulator
from dev.kms_emulator import KMSEmulator
from signer.account import HSMAccount
from signer.errors import KeyUnusableError, PolicyViolationError
from signer.policy.default_rules import account_policy
from signer.ports.key_backend import KeyId
from tests.fixtures.chain import DevChain
from tests.support.policy import NETWORKS
from tests.support.programs import ROOT, run_python


_SHOW = "\nprint(account.address, signed.raw_transaction.to_0x_hex())\n"

# The user has funded the account, and knows a token.
_FUNDED = """
from dev import stablecoin
from softhsm.account import open_account
token_address = {token!r}
abi = stablecoin.artifact()["abi"]
stablecoin.fund({url!r}, open_account().address, token=token_address)
"""


def _python(document: str) -> str:
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    return "\n".join(blocks)


def test_the_readme_signs(softhsm_module: Path, tmp_path: Path) -> None:
    """The key is created once, in the folder where the program runs."""
    program = _python("README.md") + _SHOW
    environ = {"PKCS11_MODULE": str(softhsm_module)}

    first, again = (
        run_python("-c", program, environ=environ, cwd=tmp_path) for _ in range(2)
    )

    assert first.returncode == 0, first.stderr
    address, raw = first.stdout.split()[-2:]
    assert raw.startswith("0xf8")
    assert again.stdout.split()[-2] == address
    assert (tmp_path / ".hotwallet" / "softhsm" / "tokens").is_dir()


def test_a_missing_softhsm_is_said(tmp_path: Path) -> None:
    """The error of a path without a module names the path."""
    environ = {"PKCS11_MODULE": "/nowhere/libsofthsm2.so"}

    ran = run_python("-c", _python("README.md"), environ=environ, cwd=tmp_path)

    assert "signer.errors." in ran.stderr.splitlines()[-1]


def test_the_guide_for_web3(
    softhsm_module: Path, tmp_path: Path, fresh_anvil: DevChain
) -> None:
    """It sends coin and tokens, is refused an approval, and permits one."""
    guide = _python("docs/how-to/web3py-account.md")
    funded = _FUNDED.format(token=fresh_anvil.token, url=fresh_anvil.url)
    program = funded + guide.replace("http://127.0.0.1:8545", fresh_anvil.url)
    environ = {"PKCS11_MODULE": str(softhsm_module)}

    ran = run_python("-c", program, environ=environ, cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert "rule allowance" in ran.stdout
    recipient = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    paid = coin.balance_of(fresh_anvil.url, fresh_anvil.token, recipient)
    assert paid == 1_500_000


LIBRARY = ROOT / "docs" / "reference" / "library.md"

SPENDER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


def _open(text: str, names: Mapping[str, object], **changes: str) -> HSMAccount:
    """Run the block of the library's page that has *text*; return its account."""
    page = LIBRARY.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (block,) = (each for each in blocks if text in each)
    for old, new in changes.items():
        assert old in block
        block = block.replace(old, new)
    known: dict[str, object] = {**names, "HSMAccount": HSMAccount}
    exec(block, known)
    account = known["account"]
    assert isinstance(account, HSMAccount)
    return account


def _signer(account: HSMAccount) -> str:
    """Return who signed a message of *account*."""
    message = encode_defunct(text="hello")
    signature = account.sign_message(message).signature
    return str(Account.recover_message(message, signature=signature))


def test_a_key_in_aws_kms(
    kms_emulator: KMSEmulator, kms: KMSBackend, kms_key: KeyId
) -> None:
    """The block signs, with the emulator's endpoint, and refuses another address."""
    address = HSMAccount.open(kms, kms_key).address
    changes = {
        "endpoint_url=None": f"endpoint_url={kms_emulator.endpoint!r}",
        "eu-central-1": kms_key.split(":")[3],
    }
    names = {"key_arn": kms_key, "address": address}

    assert _signer(_open("KMSBackend(", names, **changes)) == address
    with pytest.raises(KeyUnusableError):
        _open("KMSBackend(", {**names, "address": SPENDER}, **changes)


def test_a_key_in_google_cloud_kms(
    google_kms_emulator: GoogleKMSEmulator,
    google_cloud_kms: GoogleCloudKMSBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The block signs, with the emulator's endpoint."""
    key = google_kms_emulator.create_version()
    monkeypatch.setenv("GOOGLE_CLOUD_KMS_KEY", key)
    monkeypatch.setenv("GOOGLE_CLOUD_KMS_ENDPOINT", google_kms_emulator.endpoint)
    address = HSMAccount.open(google_cloud_kms, KeyId(key)).address

    assert _signer(_open("GOOGLE_CLOUD_KMS.open(", {"address": address})) == address


def test_a_document_of_a_known_kind(softhsm: PKCS11Backend, softhsm_key: KeyId) -> None:
    """A permit is refused by default; the rule permits a spender and an amount."""
    names = {
        "account_policy": account_policy,
        "backend": softhsm,
        "key_id": softhsm_key,
        "networks": NETWORKS,
    }
    account = _open("permit-for-router", names)
    by_default = HSMAccount.open(softhsm, softhsm_key, networks=NETWORKS)

    document = _permit(account.address, SPENDER, 5_000_000)
    signature = account.sign_typed_data(full_message=document).signature
    message = encode_typed_data(full_message=document)
    assert Account.recover_message(message, signature=signature) == account.address
    for signs, refused in [
        (by_default, document),
        (account, _permit(account.address, account.address, 5_000_000)),
        (account, _permit(account.address, SPENDER, 500_000_001)),
    ]:
        with pytest.raises(PolicyViolationError) as error:
            signs.sign_typed_data(full_message=refused)
        assert error.value.rule == "allowance"


def _permit(owner: str, spender: str, value: int) -> dict[str, Any]:
    """Return what ERC-2612 asks the *owner* of tokens to sign."""
    token = NETWORKS["local"].tokens["TUSD"]
    fields = {
        "owner": "address",
        "spender": "address",
        "value": "uint256",
        "nonce": "uint256",
        "deadline": "uint256",
    }
    domain = {"chainId": "uint256", "verifyingContract": "address"}
    return {
        "types": {
            name: [{"name": each, "type": kind} for each, kind in members.items()]
            for name, members in (("EIP712Domain", domain), ("Permit", fields))
        },
        "primaryType": "Permit",
        "domain": {"chainId": 31337, "verifyingContract": token.address},
        "message": {
            "owner": owner,
            "spender": spender,
            "value": value,
            "nonce": 0,
            "deadline": 2_000_000_000,
        },
    }

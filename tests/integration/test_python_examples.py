"""The Python of the README and of the guide for web3.py runs as written."""

import re
from pathlib import Path

from dev import stablecoin as coin
from tests.fixtures.chain import DevChain
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

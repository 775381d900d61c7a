"""
Builds the vault contract (``contracts/``) into its artefact, or checks the artefact.

::

    python -m dev.contracts            writes signer/chain/vault.json
    python -m dev.contracts --check    fails unless it is what the source compiles to

forge runs the compiler that ``package.json`` pins: each machine builds the same bytes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eth_utils.crypto import keccak

from dev.anvil import ROOT


CONTRACTS = ROOT / "contracts"
ARTEFACT = ROOT / "signer" / "chain" / "vault.json"


def forge(*arguments: str, out: Path, project: Path = CONTRACTS) -> None:
    """
    Run forge, which compiles into *out*: two at once must not share a folder.

    Raises:
        RuntimeError: It failed, or npm did not install it.
    """
    program = next(ROOT.glob("node_modules/@foundry-rs/forge-*/bin/forge"), None)
    if program is None:
        raise RuntimeError("no forge: run `npm ci --ignore-scripts`")
    folders = {"FOUNDRY_OUT": str(out), "FOUNDRY_CACHE_PATH": str(out / "cache")}
    finished = subprocess.run(
        [program, *arguments],
        cwd=project,
        env={**os.environ, **folders},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise RuntimeError(f"forge {arguments[0]} failed:\n{finished.stdout[-8000:]}")


def build(out: Path) -> str:
    """Compile the contract into the folder *out*, and return the artefact as text."""
    forge("build", "--skip", "test", out=out)
    compiled = json.loads((out / "Vault.sol" / "Vault.json").read_text("utf-8"))
    settings = json.loads(compiled["rawMetadata"])
    code = compiled["deployedBytecode"]["object"]
    artefact = {
        "source": "contracts/src/Vault.sol",
        "compiler": settings["compiler"]["version"],
        "evm_version": settings["settings"]["evmVersion"],
        "optimizer": settings["settings"]["optimizer"],
        "abi": compiled["abi"],
        "bytecode": compiled["bytecode"]["object"],
        "code": code,
        "code_hash": "0x" + keccak(hexstr=code).hex(),
    }
    return json.dumps(artefact, indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the artefact, or compare it with ``--check``; return the status."""
    parser = argparse.ArgumentParser(prog="python -m dev.contracts")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hotwallet-contracts-") as out:
        built = build(Path(out))
    if not options.check:
        ARTEFACT.write_text(built, encoding="utf-8")
    elif ARTEFACT.read_text(encoding="utf-8") != built:
        print(f"{ARTEFACT.name} is not what the source compiles to", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

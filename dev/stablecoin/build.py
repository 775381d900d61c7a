"""
Compile the test stablecoins into artifacts, or check the artifacts.

::

    python -m dev.stablecoin.build            writes TestUSD.json and the others
    python -m dev.stablecoin.build --check    fails unless the artifacts are current

The compiler is the one in ``package.json`` (npm, run by node), so that builds are
reproducible.  No metadata hash is appended, so that comments do not change the result.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev.anvil import ROOT


HERE = Path(__file__).resolve().parent
CONTRACTS = ("TestUSD", "WeirdUSD", "FiatUSD", "GasUSD")

# Chains of recent years support all opcodes of Paris; PUSH0 came later.
SETTINGS: dict[str, Any] = {
    "evmVersion": "paris",
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
}

_SOLC = ROOT / "node_modules" / "solc"


def build() -> dict[str, str]:
    """
    Compile the sources and return the artifacts as text by contract name.

    Raises:
        RuntimeError: The compiler is missing, or reports errors or warnings.
    """
    sources = {
        contract: (HERE / f"{contract}.sol").read_text(encoding="utf-8")
        for contract in CONTRACTS
    }
    output = _compile(sources)
    if output.get("errors"):
        raise RuntimeError("\n".join(e["formattedMessage"] for e in output["errors"]))
    return {
        contract: _artifact(
            contract, source, output["contracts"][f"{contract}.sol"][contract]
        )
        for contract, source in sources.items()
    }


def _artifact(contract: str, source: str, compiled: dict[str, Any]) -> str:
    artifact = {
        "contract": contract,
        "source": f"{contract}.sol",
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "compiler": {"npm_solc": _compiler_version(), "settings": SETTINGS},
        "abi": compiled["abi"],
        "bytecode": "0x" + compiled["evm"]["bytecode"]["object"],
    }
    return json.dumps(artifact, indent=2) + "\n"


def _compile(sources: dict[str, str]) -> dict[str, Any]:
    question = {
        "language": "Solidity",
        "sources": {
            f"{contract}.sol": {"content": source}
            for contract, source in sources.items()
        },
        "settings": {
            **SETTINGS,
            "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object"]}},
        },
    }
    if not _SOLC.is_dir():
        raise RuntimeError("no Solidity compiler: run `npm ci --ignore-scripts`")
    finished = subprocess.run(
        ["node", _SOLC / "solc.js", "--standard-json"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if finished.returncode != 0:
        raise RuntimeError(f"the compiler failed: {finished.stderr.strip()[-500:]}")
    # The command prints a banner before the result.
    answer: dict[str, Any] = json.loads(finished.stdout[finished.stdout.index("{") :])
    return answer


def _compiler_version() -> str:
    manifest = json.loads((_SOLC / "package.json").read_text(encoding="utf-8"))
    return str(manifest["version"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the artifacts, or compare them with ``--check``; return the status."""
    parser = argparse.ArgumentParser(prog="python -m dev.stablecoin.build")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--artifacts", type=Path, default=HERE, help="their folder")
    options = parser.parse_args(arguments)
    status = 0
    for contract, built in build().items():
        path = options.artifacts / f"{contract}.json"
        if not options.check:
            path.write_text(built, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != built:
            print(
                f"{path.name} is not the output of {contract}.sol",
                file=sys.stderr,
            )
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

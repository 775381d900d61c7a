"""
Compile TestUSD.sol into TestUSD.json, or prove that it was.

::

    python -m dev.stablecoin.build            writes the artifact
    python -m dev.stablecoin.build --check    fails unless it is what the source gives

The compiler is the one of ``package.json`` (npm, run by node), so that everybody gets
the same bytes; no metadata hash is appended, so that comments do not count.
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
SOURCE = HERE / "TestUSD.sol"
ARTIFACT = HERE / "TestUSD.json"
CONTRACT = "TestUSD"

# Paris has no opcode that a chain of the last years lacks (PUSH0 came after it).
SETTINGS: dict[str, Any] = {
    "evmVersion": "paris",
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
}

_SOLC = ROOT / "node_modules" / "solc"


def build() -> str:
    """
    Compile the source and return the artifact's text.

    Raises:
        RuntimeError: The compiler is missing, or has something to say.
    """
    source = SOURCE.read_text(encoding="utf-8")
    output = _compile(source)
    if output.get("errors"):
        raise RuntimeError("\n".join(e["formattedMessage"] for e in output["errors"]))
    contract = output["contracts"][SOURCE.name][CONTRACT]
    artifact = {
        "contract": CONTRACT,
        "source": SOURCE.name,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "compiler": {"npm_solc": _compiler_version(), "settings": SETTINGS},
        "abi": contract["abi"],
        "bytecode": "0x" + contract["evm"]["bytecode"]["object"],
    }
    return json.dumps(artifact, indent=2) + "\n"


def _compile(source: str) -> dict[str, Any]:
    question = {
        "language": "Solidity",
        "sources": {SOURCE.name: {"content": source}},
        "settings": {
            **SETTINGS,
            "outputSelection": {"*": {CONTRACT: ["abi", "evm.bytecode.object"]}},
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
    # The command prints a greeting before the answer.
    answer: dict[str, Any] = json.loads(finished.stdout[finished.stdout.index("{") :])
    return answer


def _compiler_version() -> str:
    manifest = json.loads((_SOLC / "package.json").read_text(encoding="utf-8"))
    return str(manifest["version"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the artifact, or with ``--check`` compare it; 1 when it differs."""
    parser = argparse.ArgumentParser(prog="python -m dev.stablecoin.build")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--artifact", type=Path, default=ARTIFACT)
    options = parser.parse_args(arguments)
    built = build()
    if not options.check:
        options.artifact.write_text(built, encoding="utf-8")
        return 0
    if options.artifact.read_text(encoding="utf-8") == built:
        return 0
    print(
        f"{options.artifact.name} is not what {SOURCE.name} compiles to",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""What ethers and viem answer, from one node process for all questions."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


SCRIPT = Path(__file__).parent / "typed_data.mjs"


def ask_javascript(
    typed: Sequence[object] = (),
    personal: Sequence[bytes] = (),
    operations: Sequence[object] = (),
) -> dict[str, Any]:
    """
    Return the digests of typed-data documents and of personal messages.

    Of *operations* (ERC-4337) also return what viem sends to a signer.
    """
    questions = {
        "typed": [_exact(each) for each in typed],
        "personal": [each.hex() for each in personal],
        "operations": [_exact(each) for each in operations],
    }
    finished = subprocess.run(
        ["node", str(SCRIPT)],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    answers: dict[str, Any] = json.loads(finished.stdout)
    return answers


def _exact(value: object) -> object:
    """Mark integers, which JavaScript would round."""
    if isinstance(value, dict):
        return {name: _exact(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_exact(each) for each in value]
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return {"$integer": str(value)} if is_integer else value

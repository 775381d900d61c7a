"""The compiled contract (``python -m dev.contracts`` writes it)."""

import json
from importlib.resources import files


def creation_code() -> bytes:
    """Return the code that creates a vault; the constructor's arguments follow it."""
    text = files("signer.chain").joinpath("vault.json").read_text("utf-8")
    return bytes.fromhex(json.loads(text)["bytecode"].removeprefix("0x"))

"""The networks file of the tests."""

from pathlib import Path


_FILE = """
[networks.local]
chain_id = 31337
rpc_urls = ["{url}"]
confirmations = {confirmations}{vault}
rpc_timeout_ms = {timeout_ms}

[networks.local.tokens.TUSD]
address = "{token}"
decimals = 6
max_amount = "1000"
"""


def write_networks(
    path: Path,
    url: str = "http://127.0.0.1:9",
    token: str = "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    confirmations: int = 1,
    vault: str | None = None,
    timeout_ms: int = 2000,
) -> Path:
    """Write a file with the network ``local``, by default without a working node."""
    line = "" if vault is None else f'\nvault = "{vault}"'
    text = _FILE.format(
        url=url,
        token=token,
        confirmations=confirmations,
        vault=line,
        timeout_ms=timeout_ms,
    )
    path.write_text(text, encoding="utf-8")
    return path

"""
The baseline of refunds: a loop that builds, signs, recovers and sends transfers.

It stores nothing and waits for no block.  A crash loses or repeats payments.
"""

import http.client
import json
from urllib.parse import urlsplit

import bitcurve
import rlp
from eth_utils.crypto import keccak

from bench.devices import Token
from bench.signing import AMOUNT, CHAIN_ID, GAS, MAX_FEE, PRIORITY_FEE, RECIPIENT
from dev import stablecoin
from signer.chain.erc20 import encode_transfer


_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_TYPE = b"\x02"  # EIP-1559.
_WEI = 10**21


class TransferLoop:
    """Sends transfers of *token* from the wallet of *key*, one nonce after another."""

    def __init__(self, key: Token, chain_url: str, token: str) -> None:
        stablecoin.fund(chain_url, key.address, token=token, wei=_WEI)
        self._key, self._nonce = key, 0
        self._token = bytes.fromhex(token[2:])
        self._sender = bytes.fromhex(key.address[2:].lower())
        self._node = http.client.HTTPConnection(urlsplit(chain_url).netloc, timeout=30)

    def send(self) -> None:
        """
        Send the next transfer.

        Raises:
            RuntimeError: The node refused it.
        """
        fields = [
            CHAIN_ID,
            self._nonce,
            PRIORITY_FEE,
            MAX_FEE,
            GAS,
            self._token,
            0,
            encode_transfer(RECIPIENT, AMOUNT),
            [],
        ]
        digest = keccak(_TYPE + rlp.encode(fields))
        signature = self._key.sign_bare(digest)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:])
        s = min(s, _N - s)
        parity = self._parity(r, s, digest)
        raw = _TYPE + rlp.encode([*fields, parity, r, s])
        self._call("eth_sendRawTransaction", "0x" + raw.hex())
        self._nonce += 1

    def _parity(self, r: int, s: int, digest: bytes) -> int:
        compact = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        for parity in (0, 1):
            point = bitcurve.PublicKey.from_signature_and_message(
                compact + bytes([parity]), digest, hasher=None
            )
            if keccak(point.format(compressed=False)[1:])[12:] == self._sender:
                return parity
        raise RuntimeError("the token signed with another key")

    def _call(self, method: str, *params: object) -> None:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        headers = {"Content-Type": "application/json"}
        self._node.request("POST", "/", json.dumps(body), headers)
        answer = json.load(self._node.getresponse())
        if "error" in answer:
            raise RuntimeError(f"the node refused the transfer: {answer['error']}")

"""Keccak-256, Ethereum's hash, by the fastest of eth-hash's functions."""

from eth_hash.backends import pysha3
from eth_hash.main import Keccak256


keccak = Keccak256(pysha3.backend)
"""Return the 32 bytes of the Keccak-256 hash of some bytes."""

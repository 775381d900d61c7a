"""
The contract functions whose calldata this project decodes, by selector.

A selector is the first four bytes of the hash of a signature, so other functions can
have the same one, and a contract may do anything under a known name.  The table
``known_functions.toml`` is how to read the bytes; policy decides which contracts to
trust.
"""

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from signer.crypto.keccak import keccak


@dataclass(frozen=True, slots=True)
class Function:
    """
    A function of a contract: its name, canonical signature and parameters.

    ``types`` are ABI types, and ``names`` has one name for each of them.
    ``static_size`` is the number of bytes of the arguments, or None if it varies.
    ``words`` say what a call does; names of parameters in braces are its arguments.
    """

    name: str
    signature: str
    types: tuple[str, ...]
    names: tuple[str, ...]
    static_size: int | None
    words: str

    @property
    def selector(self) -> bytes:
        """The first four bytes of the calldata (Solidity ABI specification)."""
        return keccak(self.signature.encode())[:4]


_LEAF = re.compile(r"[^(),]+")


def _read_function(declaration: str, words: str) -> Function:
    name, _, rest = declaration.removesuffix(")").partition("(")
    parameters = [each.rpartition(" ") for each in rest.split(", ") if each]
    types = tuple(each for each, _, _ in parameters)
    arguments = ",".join(types)
    is_dynamic = re.search(r"\[|bytes\b", arguments) is not None
    size = None if is_dynamic else 32 * len(_LEAF.findall(arguments))
    names = tuple(each for _, _, each in parameters)
    return Function(name, f"{name}({arguments})", types, names, size, words)


_TABLE = files("signer.chain").joinpath("known_functions.toml").read_text("utf-8")
_FUNCTIONS = [_read_function(*row) for row in tomllib.loads(_TABLE).items()]

BY_SELECTOR = {function.selector: function for function in _FUNCTIONS}

BY_SIGNATURE = {function.signature: function for function in _FUNCTIONS}

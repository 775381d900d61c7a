"""Generates typed-data documents (EIP-712), valid ones and others with one change."""

import copy
import json
import string
from collections.abc import Callable
from random import Random
from typing import Any

from eth_utils.address import to_checksum_address


Document = dict[str, Any]

ATOMIC = (
    ["address", "bool", "string", "bytes"]
    + [f"bytes{size}" for size in (1, 2, 4, 20, 31, 32)]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 48, 96, 160, 256)]
)

# Names that some libraries could take for something else.
_STRUCTS = [
    "Mail",
    "person",
    "Zeta",
    "alpha",
    "_under",
    "$Dollar",
    "Hyperliquid:UsdSend",
    "bytesInfo",
    "intent",
    "uintish",
    "addressBook",
    "constructor",
    "toString",
    "A1",
]
_MEMBERS = ["from", "to", "value", "nonce", "data", "_a", "$b", "type", "name", "x9"]
_MEMBERS += ["hasOwnProperty", "valueOf", "length", "chainId", "types"]
_CHARACTERS = string.ascii_letters + ' "\\\n\t\0\x7fäß€日本𝒳🦄\u2028\u200d\ufeff'
_TEXTS = ["", "false", "0", "0x", "0x1234", "null", "-0", "12.50", "[]"]

_DOMAIN = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}


MAX_CHARACTERS = 6_000
"""Larger documents take long, and could have more values than are accepted."""


def valid_document(random: Random) -> Document:
    """Return a valid document of up to five struct types."""
    while True:
        document = _document(random)
        if len(json.dumps(document)) <= MAX_CHARACTERS:
            return document


def _document(random: Random) -> Document:
    types = _types(random)
    primary = next(iter(types))
    domain = {name: type_ for name, type_ in _DOMAIN.items() if random.random() < 0.7}
    declared = [{"name": name, "type": type_} for name, type_ in domain.items()]
    shuffled = list(types.items())
    random.shuffle(shuffled)
    if random.random() < 0.8:
        shuffled.insert(random.randrange(2), ("EIP712Domain", declared))
    return {
        "types": dict(shuffled),
        "primaryType": primary,
        "domain": {name: _value(random, type_, {}) for name, type_ in domain.items()},
        "message": _value(random, primary, types),
    }


def _types(random: Random) -> dict[str, list[dict[str, str]]]:
    names = random.sample(_STRUCTS, random.randint(1, 5))
    # Each type but the first is contained in an earlier one.
    contained: dict[str, list[str]] = {name: [] for name in names}
    for index, name in enumerate(names[1:], start=1):
        contained[random.choice(names[:index])].append(name)
    types = {}
    for index, name in enumerate(names):
        later = names[index + 1 :]
        bases = contained[name] + random.choices(ATOMIC, k=random.randint(0, 4))
        if later and random.random() < 0.3:
            bases.append(random.choice(later))
        random.shuffle(bases)
        members = random.sample(_MEMBERS, len(bases))
        types[name] = [
            {"name": member, "type": base + _arrays(random)}
            for member, base in zip(members, bases, strict=True)
        ]
    return types


def _arrays(random: Random) -> str:
    if random.random() < 0.6:
        return ""
    return "".join(random.choices(["[]", "[1]", "[2]", "[3]"], k=random.choice([1, 2])))


def _value(random: Random, type_: str, types: dict[str, list[dict[str, str]]]) -> Any:
    if type_.endswith("]"):
        item, _, size = type_[:-1].rpartition("[")
        count = int(size) if size else random.choice([0, 1, 2])
        return [_value(random, item, types) for _ in range(count)]
    if type_ in types:
        members = [
            (each["name"], _value(random, each["type"], types)) for each in types[type_]
        ]
        random.shuffle(members)
        return dict(members)
    return _atomic(random, type_)


def _atomic(random: Random, type_: str) -> Any:
    if type_ == "bool":
        return random.random() < 0.5
    if type_ == "string":
        text = "".join(random.choices(_CHARACTERS, k=random.randint(0, 40)))
        return random.choice([text, random.choice(_TEXTS)])
    if type_ == "address":
        address = "0x" + random.choice([random.randbytes(20), bytes(20)]).hex()
        return random.choice([address, to_checksum_address(address)])
    if type_.startswith("bytes"):
        size = int(type_[5:]) if type_ != "bytes" else random.choice([0, 1, 31, 32, 70])
        digits = random.choice([random.randbytes(size), bytes(size)]).hex()
        return "0x" + random.choice([digits, digits.upper()])
    return _integer(random, type_)


def _integer(random: Random, type_: str) -> int | str:
    bits = int(type_.lstrip("uint"))
    is_signed = type_.startswith("int")
    lowest = -(2 ** (bits - 1)) if is_signed else 0
    highest = 2 ** (bits - is_signed) - 1
    number = random.choice(
        [0, 1, lowest, highest, random.randint(lowest, highest), highest // 2]
    )
    spellings: list[int | str] = [number, str(number)]
    if number >= 0:
        spellings += [hex(number), f"0x{number:0{bits // 4}X}"]
    return random.choice(spellings)


def changed_document(random: Random) -> Document:
    """Return a document with one change, that may have made it invalid."""
    document = valid_document(random)
    random.choice(_CHANGES)(random, document)
    return document


_VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, -0.0, 2**255, 2**256, -(2**255) - 1, 10**77,
    "", "false", "true", "0x", "0x0", "-0", "-0x1", "0b1", "0o7", "1e3", " 1", "1 ",
    "007", "1_000", "\u0661", "+1", "0X1", "0x" + "00" * 31, "0x" + "00" * 33, "0xabc",
    "0x" + "zz" * 20, "0x5fbdb2315678afecb367f032d93f642f64180aA3",
    "5fbdb2315678afecb367f032d93f642f64180aa3",
    "0x5FBDB2315678AFECB367F032D93F642F64180AA3", "vitalik.eth",
    "XE7338O073KYGTWWZN0F2WZ0R8PX5ZPPZS", "\ud800", [], {}, [[]], [0],
    {"x": 1},
]  # fmt: skip

_TYPES = [
    "uint", "int", "uint7", "uint264", "uint08", "int0", "bytes0", "bytes33", "bytes01",
    "byte", "function", "fixed", "fixed128x18", "tuple", "Missing", "EIP712Domain", "",
    "address[0]", "address[01]", "address[-1]", "address[", "address]", "address[][",
    "address []", " address", "address ", "address payable", "Address", "string[1][]",
    "toString", "__proto__", "constructor", "uint256,uint256", "uint256 a,uint256",
    None, 5,
]  # fmt: skip

_NAMES = [
    "", "a b", "a,b", "a,uint256 b", "a)", "__proto__", "1a", "é", "a\n", "a.b", "a-b",
    "uint256", "int", "uint7", "bytes33", "bytes", "address", "bool", "string", "a[]",
    "EIP712Domain", "fixed", "function", "Extra", None,
]  # fmt: skip


def _change_value(random: Random, document: Document) -> None:
    where = random.choice(["domain", "message", "message", "message"])
    places = list(_places(document, where))
    container, key = random.choice(places)
    container[key] = copy.deepcopy(random.choice(_VALUES))


def _places(container: Any, key: Any) -> list[tuple[Any, Any]]:
    value = container[key]
    keys = list(value) if isinstance(value, dict) else []
    keys = list(range(len(value))) if isinstance(value, list) else keys
    return [(container, key)] + [
        place for each in keys for place in _places(value, each)
    ]


def _change_case(random: Random, document: Document) -> None:
    places = [
        (container, key)
        for where in ("domain", "message")
        for container, key in _places(document, where)
        if isinstance(container[key], str) and len(container[key]) > 2
    ]
    if places:
        container, key = random.choice(places)
        text = container[key]
        at = random.randrange(len(text))
        container[key] = text[:at] + text[at].swapcase() + text[at + 1 :]


def _change_length(random: Random, document: Document) -> None:
    places = [
        (container, key)
        for container, key in _places(document, "message")
        if isinstance(container[key], (str, list)) and container[key]
    ]
    if places:
        container, key = random.choice(places)
        value = container[key]
        container[key] = random.choice([value[:-1], value + value[-1:], value[:-2]])


def _drop_member(random: Random, document: Document) -> None:
    places = [
        container[key]
        for where in ("domain", "message")
        for container, key in _places(document, where)
        if isinstance(container[key], dict) and container[key]
    ]
    if places:
        struct = random.choice(places)
        struct.pop(random.choice(list(struct)))


def _add_member(random: Random, document: Document) -> None:
    structs = [
        container[key]
        for where in ("domain", "message")
        for container, key in _places(document, where)
        if isinstance(container[key], dict)
    ]
    random.choice(structs)[random.choice(["extra", "name", "salt", "0"])] = "1"


def _change_type(random: Random, document: Document) -> None:
    types = document["types"]
    choices = [each for members in types.values() for each in members]
    if choices:
        member = random.choice(choices)
        member["type"] = random.choice(
            [*_TYPES, *types, *(f"{each}[]" for each in types)]
        )


def _change_name(random: Random, document: Document) -> None:
    types = document["types"]
    choices = [each for members in types.values() for each in members]
    if choices:
        random.choice(choices)["name"] = random.choice(_NAMES)


def _rename_struct(random: Random, document: Document) -> None:
    old, new = random.choice(list(document["types"])), random.choice(_NAMES[:-1])
    text = json.dumps(document)
    for before, after in ((f'"{old}"', json.dumps(new)), (f'"{old}[', f'"{new}[')):
        text = text.replace(before, after)
    try:
        document.update(json.loads(text))
    except ValueError:
        document["types"][new] = document["types"].pop(old)


def _change_types(random: Random, document: Document) -> None:
    types = document["types"]
    name = random.choice(list(types))
    change = random.randrange(7)
    if change == 0:
        types["Extra"] = [{"name": "a", "type": "uint256"}]
    elif change == 1:
        types[name] = types[name] + types[name][:1]
    elif change == 2:
        types[name].append(
            {"name": "itself", "type": random.choice([name, f"{name}[]"])}
        )
    elif change == 3:
        types.pop(name)
    elif change == 4:
        types[name].reverse()
    elif change == 5:
        types[name] = random.choice([None, {}, "", [None], [[]], [{"name": "a"}]])
    elif types[name]:
        random.choice(types[name])["indexed"] = True


def _change_top(random: Random, document: Document) -> None:
    change = random.randrange(4)
    if change == 0:
        document["primaryType"] = random.choice(
            [*document["types"], "Missing", None, 5]
        )
    elif change == 1:
        document.pop(random.choice(list(document)))
    elif change == 2:
        document[random.choice(list(document))] = copy.deepcopy(random.choice(_VALUES))
    else:
        document["extra"] = 1


_CHANGES: list[Callable[[Random, Document], None]] = [
    _change_value,
    _change_value,
    _change_value,
    _change_case,
    _change_length,
    _drop_member,
    _add_member,
    _change_type,
    _change_type,
    _change_name,
    _rename_struct,
    _change_types,
    _change_top,
]

"""Which changes of the networks file and the tenants file allow more."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from signer.config.digest import Configuration
from signer.config.file_limits import (
    FileLimits,
    Files,
    changed_limits,
    dump_limits,
    find_rule,
    keep_limits,
    parse_limits,
    raised_limits,
    read_limits,
)
from signer.config.models import LimitComparison
from signer.config.networks import Network, Networks
from signer.config.tenants import Tenant, Tenants


KEYS = [
    f"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA{key}\n-----END PUBLIC KEY-----\n"
    for key in (
        "JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    )
]

FILES: dict[str, Any] = {
    "networks": {
        "polygon": {
            "chain_id": 137,
            "rpc_urls": ["https://one.example", "https://two.example"],
            "confirmations": 64,
            "gas_per_hour": 30_000_000,
            "automatic_stop": {
                "max_refunds": 200,
                "max_amounts": {"USDC": "20000"},
                "max_failed_percent": 20,
                "max_gas_per_hour": 30_000_000,
            },
            "tokens": {
                "USDC": {
                    "address": "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359",
                    "decimals": 6,
                    "max_amount": "500",
                    "min_amount": "0.10",
                    "hourly_limit": "1000",
                    "daily_limit": "9000.0",
                    "daily_limit_per_recipient": "600",
                    "reference_price": "0.92",
                },
                "USDT": {
                    "address": "0xc2132D05D31c914a87C6611C10748AEb04B58e8F",
                    "decimals": 6,
                    "max_amount": "100",
                },
            },
        },
        "base": {
            "chain_id": 8453,
            "vault": "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359",
            "max_batch": 50,
            "rpc_urls": ["https://three.example"],
            "tokens": {
                "USDC": {
                    "address": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
                    "decimals": 6,
                    "max_amount": "100",
                }
            },
        },
    },
    "tenants": {
        "shop": {
            "subjects": ["shop-1", "shop-2"],
            "client_ids": ["shop-gateway"],
            "max_open_refunds": 1000,
            "requests_per_minute": 600,
            "max_concurrent_requests": 8,
            "max_waiting_requests": 4,
            "request_keys": {"first": KEYS[0]},
            "networks": {
                "polygon": {
                    "gas_per_hour": 20_000_000,
                    "tokens": {
                        "USDC": {
                            "min_amount": "1",
                            "max_amount": "250",
                            "hourly_limit": "400",
                            "daily_limit": "400",
                            "daily_limit_per_recipient": "300",
                        }
                    },
                },
                "base": {"tokens": {"USDC": {"max_amount": "10"}}},
            },
        },
        "other.shop": {"subjects": ["other"]},
    },
}

NEW_TOKEN = {
    "address": "0x2791Bca1f2de4661ED88A30C99A7a9449Aa84174",
    "decimals": 6,
    "max_amount": "1",
}

NOTHING = object()


def _limits(files: dict[str, Any]) -> FileLimits:
    networks = Networks.model_validate({"networks": files["networks"]}).networks
    tenants = {}
    if files["tenants"]:
        tenants = Tenants.model_validate({"tenants": files["tenants"]}).tenants
    own = {name: files[name] for name in files.keys() & {"policy"}}
    configuration = Configuration.of(networks=networks, tenants=tenants, **own)
    return read_limits(configuration.document)


def _with(path: str, value: object, files: dict[str, Any] = FILES) -> dict[str, Any]:
    """Return *files* with another *value* at *path*; ``NOTHING`` removes it."""
    changed = deepcopy(files)
    place: Any = changed
    *folders, name = path.split("/")
    for each in folders:
        place = place.setdefault(each, {})
    if value is NOTHING:
        del place[name]
    else:
        place[name] = value
    return changed


POLYGON, USDC = "networks/polygon", "networks/polygon/tokens/USDC"
STOP, SHOP = "networks/polygon/automatic_stop", "tenants/shop"
OF_SHOP = "tenants/shop/networks/polygon/tokens/USDC"

HIGHER_AND_LOWER: list[tuple[str, object, object]] = [
    (f"{USDC}/max_amount", "500.01", "499.99"),
    (f"{USDC}/min_amount", "0.09", "0.11"),
    (f"{USDC}/max_gas", 2_000_001, 1_999_999),
    (f"{USDC}/hourly_limit", "1000.5", "999"),
    (f"{USDC}/daily_limit", "10000", "8999"),
    (f"{USDC}/daily_limit_per_recipient", "601", "599.9"),
    (f"{USDC}/reference_price", "0.91", "1"),
    (f"{POLYGON}/confirmations", 63, 65),
    (f"{POLYGON}/max_fee_per_gas_gwei", 501, 499),
    (f"{POLYGON}/max_priority_fee_per_gas_gwei", 51, 49),
    (f"{POLYGON}/base_fee_multiple", 3, 1),
    (f"{POLYGON}/max_fee_factor", 11, 9),
    (f"{POLYGON}/max_fee_factor", 0, 1),
    (f"{POLYGON}/gas_per_hour", 30_000_001, 29_999_999),
    (f"{STOP}/window_minutes", 9, 11),
    ("networks/base/max_batch", 51, 49),
    (f"{STOP}/max_refunds", 201, 199),
    (f"{STOP}/max_amounts", {"USDC": "20001"}, {"USDC": "19999", "USDT": "1"}),
    (f"{STOP}/max_amounts", {}, {"USDC": "1"}),
    (f"{STOP}/max_failed_percent", 21, 19),
    (f"{STOP}/failed_of_last", 21, 19),
    (f"{STOP}/max_gas_per_hour", 30_000_001, 29_999_999),
    (f"{SHOP}/subjects", ["shop-1", "shop-2", "shop-3"], ["shop-1"]),
    (f"{SHOP}/client_ids", ["shop-gateway", "another"], []),
    (f"{SHOP}/max_open_refunds", 1001, 999),
    (f"{SHOP}/requests_per_minute", 601, 599),
    (f"{SHOP}/max_concurrent_requests", 9, 7),
    (f"{SHOP}/max_waiting_requests", 5, 3),
    ("tenants/shop/networks/polygon/gas_per_hour", 20_000_001, 19_999_999),
    (f"{OF_SHOP}/min_amount", "0.99", "1.01"),
    (f"{OF_SHOP}/max_amount", "250.01", "249.99"),
    (f"{OF_SHOP}/hourly_limit", "401", "399"),
    (f"{OF_SHOP}/daily_limit", "401", "399"),
    (f"{OF_SHOP}/daily_limit_per_recipient", "301", "299"),
]


@pytest.mark.parametrize(("path", "higher", "lower"), HIGHER_AND_LOWER)
def test_what_allows_more(path: str, higher: object, lower: object) -> None:
    before = _limits(FILES)
    raised, lowered = _limits(_with(path, higher)), _limits(_with(path, lower))

    (name,) = raised_limits(before, raised)
    assert name.startswith(path.replace("/", "."))
    assert raised_limits(before, lowered) == {}
    assert changed_limits(before, lowered) != {}


@pytest.mark.parametrize(
    "path",
    [
        *(f"{USDC}/min_amount", f"{USDC}/hourly_limit", f"{USDC}/daily_limit"),
        *(f"{USDC}/daily_limit_per_recipient", f"{USDC}/reference_price"),
        *(f"{POLYGON}/gas_per_hour", f"{STOP}/max_refunds"),
        *(f"{STOP}/max_failed_percent", f"{STOP}/max_gas_per_hour"),
        *(f"{STOP}/max_amounts", f"{SHOP}/requests_per_minute"),
        *(f"{SHOP}/max_concurrent_requests", f"{SHOP}/max_waiting_requests"),
        f"{SHOP}/request_keys",
        f"{SHOP}/networks/polygon/gas_per_hour",
        f"{OF_SHOP}/max_amount",
        f"{SHOP}/networks/base",
    ],
)
def test_a_limit_that_is_removed(path: str) -> None:
    """To remove it allows more, and to add it back allows less."""
    before, without = _limits(FILES), _limits(_with(path, NOTHING))
    raised, restored = raised_limits(before, without), raised_limits(without, before)

    assert any(name.startswith(path.replace("/", ".")) for name in raised)
    assert all("after" not in change for change in raised.values())
    assert restored == {}


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (f"{POLYGON}/chain_id", 1, "networks.polygon.chain_id"),
        (
            f"{USDC}/address",
            NEW_TOKEN["address"],
            "networks.polygon.tokens.USDC.address",
        ),
        (f"{USDC}/decimals", 2, "networks.polygon.tokens.USDC.decimals"),
        (f"{POLYGON}/vault", NEW_TOKEN["address"], "networks.polygon.vault"),
        ("networks/base/vault", NEW_TOKEN["address"], "networks.base.vault"),
        (f"{POLYGON}/tokens/NEW", NEW_TOKEN, "networks.polygon.tokens.NEW"),
        ("networks/new", FILES["networks"]["base"], "networks.new"),
        ("tenants/a.b", {"subjects": ["new"]}, 'tenants."a.b"'),
        (f"{SHOP}/request_keys/second", KEYS[1], "tenants.shop.request_keys.second"),
        (f"{SHOP}/request_keys/first", KEYS[1], "tenants.shop.request_keys.first"),
        ("tenants/other.shop/subjects", ["x"], 'tenants."other.shop".subjects.x'),
        ("tenants", {}, "tenants"),
    ],
)
def test_something_else_is_allowed(path: str, value: object, name: str) -> None:
    before, after = _limits(FILES), _limits(_with(path, value))

    assert list(raised_limits(before, after)) == [name]
    assert parse_limits(dump_limits(after)) == after


def test_tokens_that_leave_a_vault_need_an_approval() -> None:
    """The wallet would pay, which no contract limits."""
    plain = _with("networks/base/max_batch", NOTHING)
    plain = _with("networks/base/vault", NOTHING, plain)

    found = raised_limits(_limits(FILES), _limits(plain))
    assert found.keys() == {"networks.base.max_batch", "networks.base.vault"}


def test_a_new_network_shows_all_of_its_values() -> None:
    after = _limits(_with("networks/new", FILES["networks"]["base"]))
    change = raised_limits(_limits(FILES), after)["networks.new"]["after"]

    assert change["tokens.USDC.max_amount"] == "100"
    assert change["chain_id"] == 8453
    assert not [name for name in change if "rpc" in name]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{POLYGON}/rpc_urls", ["https://four.example"]),
        (f"{POLYGON}/rpc_timeout_ms", 9999),
        ("networks/base/batch_wait", 60),
        (f"{POLYGON}/stuck_after_seconds", 1),
        (f"{USDC}/daily_limit", "9000"),
    ],
)
def test_what_is_no_limit_changes_nothing(path: str, value: object) -> None:
    """Nor does another spelling of an amount raise it."""
    assert raised_limits(_limits(FILES), _limits(_with(path, value))) == {}


@pytest.mark.parametrize("path", ["networks/base", f"{POLYGON}/tokens/USDC"])
def test_a_broken_token_is_removed_without_an_approval(path: str) -> None:
    """The limits that other sections have for it go with it; to add it needs one."""
    less = _with(path, NOTHING)
    of_shop = less["tenants"]["shop"]["networks"]
    if path == "networks/base":
        del of_shop["base"]
    else:
        del of_shop["polygon"]
        del less["networks"]["polygon"]["automatic_stop"]["max_amounts"]
        less = _with(f"{SHOP}/networks/polygon/gas_per_hour", 20_000_000, less)
    before, after = _limits(FILES), _limits(less)

    assert raised_limits(before, after) == {}
    assert path.replace("/", ".") in raised_limits(after, before)


def test_a_tenant_begins_to_sign() -> None:
    """The first key is a restriction; a second one is another party."""
    before = _limits(_with(f"{SHOP}/request_keys", {}))

    assert raised_limits(before, _limits(FILES)) == {}


def test_a_rule_that_is_off_has_no_window() -> None:
    """Its window and its number of results may be any before it is turned on."""
    off = _with(STOP, {"window_minutes": 60, "failed_of_last": 5})

    assert raised_limits(_limits(off), _limits(FILES)) == {}


@pytest.mark.parametrize(
    "name", ["window_minutes", "failed_of_last", "max_fee_factor", "subjects", "a.b"]
)
def test_names_like_fields_are_names(name: str) -> None:
    """A caller, tenant or token may be named like a field that is not compared."""
    found = [
        raised_limits(_limits(FILES), _limits(_with(path, value)))
        for path, value in (
            (f"{SHOP}/subjects", ["shop-1", "shop-2", name]),
            (f"tenants/{name}", {"subjects": ["new"]}),
            (f"{POLYGON}/tokens/{name}", NEW_TOKEN),
            (f"networks/{name}", FILES["networks"]["base"]),
        )
    ]

    assert [len(each) for each in found] == [1, 1, 1, 1]


RULES_FILE = {"10-own.cedar": "// rules", "20-more.cedar": "// more"}


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (None, RULES_FILE, ["10-own.cedar", "20-more.cedar"]),
        (RULES_FILE, None, ["10-own.cedar", "20-more.cedar"]),
        (RULES_FILE, {**RULES_FILE, "10-own.cedar": "// other"}, ["10-own.cedar"]),
        (RULES_FILE, {"10-own.cedar": "// rules"}, ["20-more.cedar"]),
        (RULES_FILE, RULES_FILE, []),
    ],
)
def test_every_change_of_own_rules_needs_an_approval(
    before: object, after: object, changed: list[str]
) -> None:
    """Only people see whether rules allow more; a removed one may have forbidden."""
    old, new = (
        FILES if rules is None else {**FILES, "policy": rules}
        for rules in (before, after)
    )

    raised = raised_limits(_limits(old), _limits(new))

    assert list(raised) == [f'policy."{name}"' for name in changed]
    assert all(len(value) == 64 for each in raised.values() for value in each.values())


def _fields(kind: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of each field of the model *kind*."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield from _fields(field.annotation, *path, name)
        return
    arguments = [each for each in get_args(kind) if each not in (type(None), ...)]
    if str(kind).startswith(("dict[", "tuple[")):
        yield from _fields(arguments[-1], *path, "some")
    elif arguments and isinstance(arguments[0], type):
        yield from _fields(arguments[0], *path)
    else:
        yield path


FIXED = {
    ("networks", "some", "chain_id"),
    ("networks", "some", "vault"),
    ("networks", "some", "finality"),
    ("networks", "some", "tokens", "some", "address"),
    ("networks", "some", "tokens", "some", "decimals"),
}


def test_every_field_declares_when_it_allows_more() -> None:
    """Of one that does not, and of an unknown one, every change is refused."""
    fields = [*_fields(Networks), *_fields(Tenants)]

    fixed = {each for each in fields if find_rule(each) is LimitComparison.FIXED}
    assert fixed == FIXED
    for unknown in (("networks", "local", "new"), ("policy", "own.cedar"), ("new",)):
        assert find_rule(unknown) is LimitComparison.FIXED


def test_a_rule_of_finality_is_no_limit_until_it_is_set() -> None:
    """Files of before its key exists raise nothing; a change of it does."""
    before, path = _limits(FILES), f"{POLYGON}/finality"

    assert raised_limits(before, _limits(_with(path, "confirmations"))) == {}
    safe, finalized = (_limits(_with(path, each)) for each in ("safe", "finalized"))
    for old, new in ((before, safe), (finalized, safe), (finalized, before)):
        assert set(raised_limits(old, new)) == {"networks.polygon.finality"}


def test_what_bounds_no_payment_is_listed() -> None:
    found = {
        each[2] if each[2] != "tokens" else each[4]
        for each in (*_fields(Networks), *_fields(Tenants))
        if find_rule(each) is LimitComparison.NOT_LIMITING
    }

    assert found == {
        *("rpc_urls", "rpc_timeout_ms", "explorer", "webhook"),
        *("stuck_after_seconds", "stalled_after_seconds", "max_in_flight"),
        *("batch_wait", "kind", "block_seconds", "pending", "fees", "data_fee"),
        *("coin_is", "rpc_batch"),
        *("low_balance_refunds", "low_balance_hours", "top_up_below", "top_up_to"),
    }


TOKEN = {
    "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
    "decimals": 6,
    "max_amount": "1000",
}


def _files(tenants: Mapping[str, Any] | None = None, **changes: Any) -> Files:
    network = {
        "chain_id": 31337,
        "rpc_urls": ["http://127.0.0.1:9"],
        "confirmations": 3,
        "tokens": {"TUSD": TOKEN},
        **changes,
    }
    given = {"shop": {"subjects": ["pod-1"]}} if tenants is None else tenants
    return Files(
        {"local": Network.model_validate(network)},
        {name: Tenant.model_validate(each) for name, each in given.items()},
    )


def _limits_of(files: Files, **policy: str) -> FileLimits:
    rules = {"policy": policy} if policy else {}
    tenants = files.tenants or {}
    return read_limits(
        Configuration.of(
            limits={}, networks=files.networks, tenants=tenants, **rules
        ).document
    )


RAISED = {
    "a higher maximum": _files(tokens={"TUSD": {**TOKEN, "max_amount": "5000"}}),
    "a lower minimum": _files(confirmations=1),
    "another contract": _files(
        tokens={
            "TUSD": {**TOKEN, "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}
        }
    ),
    "a new token": _files(
        tokens={
            "TUSD": TOKEN,
            "NEW": {**TOKEN, "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"},
        }
    ),
    "a new tenant": _files(
        {"shop": {"subjects": ["pod-1"]}, "new": {"subjects": ["pod-2"]}}
    ),
    "a vault": _files(vault="0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    "a new caller": _files({"shop": {"subjects": ["pod-1", "pod-2"]}}),
    "another caller": _files({"shop": {"subjects": ["pod-1"], "client_ids": ["c"]}}),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_is_raised_is_put_back(name: str) -> None:
    accepted, pushed = _files(), RAISED[name]
    before, after = _limits_of(accepted), _limits_of(pushed)
    kept = keep_limits(pushed, before, after)

    assert raised_limits(before, after)
    assert kept == accepted


def test_a_new_network_is_left_out() -> None:
    accepted = _files()
    other = accepted.networks["local"].model_copy(update={"chain_id": 5})
    pushed = Files({**accepted.networks, "other": other}, accepted.tenants)

    assert keep_limits(pushed, _limits_of(accepted), _limits_of(pushed)) == accepted


def test_a_network_that_had_a_vault_keeps_it() -> None:
    """To leave it out, or to name another one, moves where tokens come from."""
    accepted = _files(vault=TOKEN["address"], max_batch=7)
    for pushed in (_files(), RAISED["a vault"]):
        kept = keep_limits(pushed, _limits_of(accepted), _limits_of(pushed))

        assert kept is not None
        assert kept.networks["local"].vault == TOKEN["address"]


def test_what_is_not_raised_stays() -> None:
    """Lower limits, timeouts and URLs of the new files are in force."""
    pushed = _files(
        confirmations=9,
        rpc_timeout_ms=1234,
        tokens={"TUSD": {**TOKEN, "max_amount": "5000", "min_amount": "2"}},
    )
    kept = keep_limits(pushed, _limits_of(_files()), _limits_of(pushed))

    assert kept is not None
    network = kept.networks["local"]
    assert (network.confirmations, network.rpc_timeout_ms) == (9, 1234)
    assert network.rpc_urls == pushed.networks["local"].rpc_urls
    token = network.tokens["TUSD"]
    assert (token.max_amount, token.min_amount) == ("1000", "2")


def test_a_minimum_that_was_removed() -> None:
    limited = {"TUSD": {**TOKEN, "min_amount": "2"}}
    kept = keep_limits(
        _files(), _limits_of(_files(tokens=limited)), _limits_of(_files())
    )

    assert kept == _files(tokens=limited)


def test_rules_are_known_by_their_hash_only() -> None:
    files = _files()

    assert (
        keep_limits(files, _limits_of(files, a="x"), _limits_of(files, a="y")) is None
    )


def test_what_is_left_may_not_be_valid() -> None:
    """A tenant whose only caller is another one than before."""
    pushed = _files({"shop": {"subjects": ["pod-2"]}})

    assert keep_limits(pushed, _limits_of(_files()), _limits_of(pushed)) is None

"""The schemas of networks, tokens, their limits, and previews of refunds."""

from api.http.openapi.elements import (
    Element,
    flag,
    integer,
    list_of,
    nullable,
    one_of,
    record,
    schema,
    text,
)
from api.http.openapi.refund_schemas import address, amount, wei
from signer.errors import ApprovalRequiredError, PolicyViolationError
from signer.model.decision import Verdict
from signer.refunds.allowances import Scope
from signer.refunds.preview import DELAYS, Outcome


_LIMIT: dict[str, Element] = {
    "name": one_of(
        ("hourly_limit", "daily_limit", "daily_limit_per_recipient", "gas_per_hour"),
        """
        An hour is a clock hour; a day is that hour and the 23 before it. `gas_per_hour`
        counts the gas limits of the network's transactions.
        """,
    ),
    "scope": one_of(
        Scope,
        "`service`: all tenants share the limit. `tenant`: it is the caller's own.",
    ),
    "limit": amount("Whole tokens; gas for `gas_per_hour`."),
}

_TOKEN = record(
    "A token that may be refunded.",
    network=text("The network's name."),
    chain_id=integer("The network's chain id."),
    token=text("The token's name, as requests use it."),
    address=address("The token's contract."),
    decimals=integer("How many decimals an amount may have.", minimum=0, maximum=36),
    min_amount=nullable(amount("The least that one refund pays; null: no bound.")),
    max_amount=amount("The most that one refund pays."),
    approve_above=nullable(
        amount(
            """
            A larger refund waits for the approval of an administrator; null: none does.
            """
        )
    ),
    limits=list_of(
        schema("Limit"),
        "Limits on all refunds of an hour or a day together; empty: there is none.",
    ),
    confirmations=integer("Blocks until a refund is `confirmed`.", minimum=1),
)

_NETWORK = record(
    "A network on which refunds are paid.",
    network=text("The network's name, as requests use it."),
    chain_id=integer("Its chain id."),
    confirmations=integer("Blocks until a refund is `confirmed`.", minimum=1),
    tokens=list_of(text("A token's name."), "Its tokens: see `GET /v1/tokens`."),
    limits=list_of(schema("Limit"), "Limits on gas; empty: there is none."),
)

_SIMULATION = record(
    "The transfer, as the nodes execute it now, without sending it.",
    succeeds=flag("Whether the token accepts it."),
    reason=nullable(text("The token's decoded reason to revert.")),
    gas=nullable(integer("The gas that it uses; null if it reverts.", minimum=0)),
)

_FEE = record(
    "The network fee, in the chain's coin, which the wallet pays.",
    expected=amount("At the chain's current prices, in whole coins."),
    at_most=amount("The most that the first transaction may cost, in whole coins."),
    gas_limit=integer("The gas limit.", minimum=0),
    max_fee_per_gas=wei("In wei."),
    max_priority_fee_per_gas=wei("In wei."),
)

_DECISION = record(
    "The decision of the service's policy; null if it has no own rules.",
    verdict=one_of(
        Verdict,
        """
        `allow`; `needs-approval`: it would wait for `approvals` people; or `refuse`: it
        would wait with `policy-violation`.
        """,
    ),
    rules=list_of(text("A rule's name."), "The rules that decide."),
    approvals=integer("How many people must approve it.", minimum=0),
)

_ROOM = record(
    "A limit, and what is left of it.",
    **_LIMIT,
    room=nullable(
        amount(
            """
            What is left. Null for a limit that several tenants share: it would show
            what the others pay.
            """
        )
    ),
    fits=flag("Whether the refund fits in now. If not, it would wait."),
)

SCHEMAS: dict[str, Element] = {
    "Limit": record("A limit on all refunds of a time together.", **_LIMIT),
    "LimitRoom": _ROOM,
    "Token": _TOKEN,
    "Network": _NETWORK,
    "TokenList": record(
        "What may be refunded.",
        tokens=list_of(schema("Token"), "One entry for each network and token."),
    ),
    "NetworkList": record(
        "Where refunds are paid.", networks=list_of(schema("Network"), "By name.")
    ),
    "Preview": record(
        "What would happen with a refund that is requested now.",
        outcome=one_of(
            Outcome,
            """
            `pay`: it would be accepted and paid. `wait`: accepted, and paid later, see
            `waits_for`. `refuse`: `problem` is the answer to the request (an unknown
            network or token, a bound of the amount, a `reference` in use), or it is
            null and the token rejects the transfer (`simulation`).
            """,
        ),
        problem=nullable(schema("Problem")),
        needs_approval=flag("Whether an administrator must approve it first."),
        waits_for=list_of(
            one_of(
                [
                    ApprovalRequiredError.code,
                    PolicyViolationError.code,
                    *(each.code for each in DELAYS),
                ],
                "A code.",
            ),
            """
            Codes of what would delay it: the request is accepted, and none of them is
            its answer.
            """,
        ),
        policy=nullable(_DECISION),
        amount=nullable(amount("The amount, with all decimals of the token.")),
        sender=nullable(address("The wallet that would pay it.")),
        simulation=nullable(_SIMULATION),
        fee=nullable(_FEE),
        limits=list_of(
            schema("LimitRoom"), "Each limit that counts this refund; empty: none does."
        ),
    ),
}

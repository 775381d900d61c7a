"""Stopping and resuming signatures: the kill switch."""

from collections.abc import Callable, Mapping
from typing import Any

from api.console.changes.change import (
    REASON,
    Change,
    Facts,
    Field,
    Options,
    Outcome,
    Plan,
    Values,
)
from api.console.rendering import format_time
from api.console.stops import describe_stop, describe_stops
from api.container import Container
from signer.model.audit_record import Actor
from signer.model.stop import EVERYTHING, Stop
from signer.refunds.kill_switch import SwitchResult


ALL = "*"
"""The value of the field for every network.  No network has this name."""

_CHAIN = "chain:"
"""What the value of a chain begins with that the networks file lacks."""

_PAGE = "/console/stops"


def scope_of(chain_id: int, names: Mapping[int, str]) -> str:
    """Return the value of the field for *chain_id*."""
    if chain_id == EVERYTHING:
        return ALL
    return names.get(chain_id, f"{_CHAIN}{chain_id}")


def scopes(container: Container) -> Options:
    """Return everything that can be stopped or is stopped."""
    switch = container.kill_switch
    names = switch.names()
    options = {ALL: "every network"}
    options |= {name: f"{name} (chain {id_})" for id_, name in names.items()}
    for stop in switch.stops():
        value = scope_of(stop.chain_id, names)
        options.setdefault(value, f"chain {stop.chain_id}, of no network")
    return options


_SCOPE = Field("network", "Network", options=scopes)


def _plan_stop(container: Container, values: Values) -> Plan:
    found = _find(container, values)
    notes = [
        "No process on any host signs for a payment any more.",
        "Refunds are still accepted, and wait.",
        "Transactions that nodes have already are still confirmed.",
    ]
    if found is not None:
        notes.insert(0, describe_stop(found, container.kill_switch.names()))
    if container.approvals.required:
        notes.append("To resume takes two administrators.")
    # No facts: a stop must not fail because another administrator was faster.
    return Plan(notes=notes)


def _plan_resume(container: Container, values: Values) -> Plan:
    stop = _find(container, values)
    if stop is None:
        return Plan(notes=["Nothing is stopped there: nothing will change."])
    if not stop.is_authentic:
        return Plan(notes=["Another program changed this stop: stop it again first."])
    facts: Facts = [
        ("stopped since", format_time(stop.at)),
        ("stopped by", stop.requested_by),
        ("reason of the stop", stop.reason),
        ("version of the stop", str(stop.version)),
    ]
    notes = ["Refunds that wait are then paid. Other stops and paused wallets stay."]
    return Plan(facts, notes, needs_approval=container.approvals.required)


def _stop(container: Container, values: Values, actor: Actor) -> Outcome:
    result = _switch(container.kill_switch.stop, values, actor)
    summary = "Signing is stopped" if result.changed else "It was stopped already"
    return Outcome(summary, describe_stops(container))


def _resume(container: Container, values: Values, actor: Actor) -> Outcome:
    result = _switch(container.kill_switch.resume, values, actor)
    summary = "The stop is ended" if result.changed else "It was not stopped"
    return Outcome(summary, describe_stops(container))


def _switch(
    change: Callable[..., SwitchResult], values: Values, actor: Actor
) -> SwitchResult:
    scope, given = values["network"], dict[str, Any]()
    if scope.startswith(_CHAIN):
        given["chain_id"] = int(scope.removeprefix(_CHAIN))
    network = None if given or scope == ALL else scope
    return change(network, values["reason"], actor, **given)


def _find(container: Container, values: Values) -> Stop | None:
    switch = container.kill_switch
    names = switch.names()
    return next(
        (
            stop
            for stop in switch.stops()
            if scope_of(stop.chain_id, names) == values["network"]
        ),
        None,
    )


STOP = Change(
    "stop",
    "Stop signing",
    "signing:stop",
    "POST /v1/admin/stop",
    _PAGE,
    (_SCOPE, REASON),
    _plan_stop,
    _stop,
    is_danger=True,
)

RESUME = Change(
    "resume",
    "Resume signing",
    "signing:stop",
    "POST /v1/admin/resume",
    _PAGE,
    (_SCOPE, REASON),
    _plan_resume,
    _resume,
)

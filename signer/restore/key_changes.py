"""Finds which changes of keys a restored ledger has lost."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from signer.audit.actions import AuditAction
from signer.model.key import Key, KeyState, find_key
from signer.redact import key_prefix
from signer.restore.lost_changes import KeyChange, LostChanges


def find_missing_changes(
    changes: Sequence[KeyChange], ring: Sequence[Key]
) -> Sequence[KeyChange]:
    """Return those of *changes*, in their order, that *ring* does not have yet."""
    keys = {key.address: key for key in ring if key.epoch}
    rotations = [each for each in changes if each.action is AuditAction.KEY_ROTATE]
    replicas = {
        each.address: each.key
        for each in changes
        if each.action is AuditAction.KEY_FAILOVER
    }

    def is_missing(change: KeyChange) -> bool:
        key = keys.get(change.address)
        if change.action is AuditAction.KEY_FAILOVER:
            # Of several failovers of a key, the last one counts.
            return key is None or key_prefix(key.key_id) != replicas[key.address]
        return key is None or key.state is not KeyState.BLOCKED

    left = iter([False] * _count_done(rotations, keys) + [True] * len(rotations))
    return [
        each
        for each in changes
        if (next(left) if each.action is AuditAction.KEY_ROTATE else is_missing(each))
    ]


def _count_done(rotations: Sequence[KeyChange], keys: Mapping[str, Key]) -> int:
    """Return how many of *rotations* the ring has: a restore repeats them in order."""
    done = 0
    for number, rotation in enumerate(rotations, 1):
        key = keys.get(rotation.address)
        if key is None or (rotation.compromised and not _is_blocked(rotation, keys)):
            break
        if key.state is KeyState.ACTIVE:
            done = number
    return done


def _is_blocked(rotation: KeyChange, keys: Mapping[str, Key]) -> bool:
    previous = keys.get(str(rotation.previous))
    return previous is not None and previous.state is KeyState.BLOCKED


def find_ring_problems(
    lost: LostChanges,
    ring: Sequence[Key],
    changes: Sequence[KeyChange],
    key_ids: Collection[str],
) -> Iterator[str]:
    """
    Yield why *changes* cannot be made to *ring* yet, and what to do.

    *key_ids* are of the keys that an operator named.
    """
    if not ring:
        yield (
            "the ledger has no key: configure the wallet's first key, and run"
            " `hotwallet guard`"
        )
    for address in sorted(lost.addresses() - set(addresses_of(ring, changes))):
        yield (
            f"{address} has signed, and the ring does not have it: repeat its rotation"
            " with `hotwallet keys rotate`, then run the command again"
        )
    prefixes = {key_prefix(key_id) for key_id in key_ids}
    for change in changes:
        if change.action is not AuditAction.KEY_REVOKE and change.key not in prefixes:
            yield (
                f"the key of {change.address} is needed to repeat its {change.action}:"
                f" --key KEY_ID, an id that begins with {change.key}"
            )


def addresses_of(ring: Sequence[Key], changes: Sequence[KeyChange]) -> Sequence[str]:
    """Return the addresses of *ring* after *changes*."""
    known = {key.address for key in ring if key.epoch}
    return sorted(known | {change.address for change in changes})


def is_revoked(address: str, ring: Sequence[Key], changes: Sequence[KeyChange]) -> bool:
    """Return whether the key of *address* is revoked after *changes*."""
    key = find_key(ring, address)
    is_blocked = key is not None and key.state is KeyState.BLOCKED
    return is_blocked or address in _revoked(changes)


def _revoked(changes: Sequence[KeyChange]) -> Iterator[str]:
    for change in changes:
        if change.action is AuditAction.KEY_REVOKE:
            yield change.address
        elif change.compromised and change.previous is not None:
            yield change.previous

"""Restores repeat changes of the key ring with the keys of a SoftHSM token."""

import secrets
from dataclasses import replace

import bitcurve
import pytest

from backends.pkcs11 import PKCS11Backend
from signer.keys.rotation import RotationOptions
from signer.keys.signer import Signer
from signer.model.key import KeyState
from signer.model.refund import Refund, Status
from signer.ports.key_backend import KeyId
from signer.redact import key_prefix
from softhsm.keys import import_key
from tests.support.keys import key_of
from tests.support.refunds import AMOUNT, CUSTOMER, OPERATOR
from tests.support.restores import Restored, plan_of, requested


Keys = tuple[KeyId, KeyId, KeyId]


@pytest.fixture
def keys(world: Restored, softhsm: PKCS11Backend) -> Keys:
    """Return the ids of three keys of the token; the first one is enrolled."""
    first, second, third = (
        softhsm.generate(f"restore {secrets.token_hex(4)}") for _ in range(3)
    )
    assert world.audit is not None
    assert world.log == []
    world.directory = softhsm
    world.signer = Signer.open(softhsm, first, world.audit)
    world.others = ()
    world.store.enrol(replace(key_of(world.signer), backend=softhsm.name))
    return first, second, third


def _address(world: Restored, key_id: KeyId) -> str:
    assert world.directory is not None
    assert world.audit is not None
    return Signer.open(world.directory, key_id, world.audit).address


def _rotate(world: Restored, key_id: KeyId, *, compromised: bool = False) -> None:
    active = world.store.active_key()
    assert active is not None
    options = RotationOptions(
        compromised=compromised,
        active_address=active.address,
        without_funds=compromised,
    )
    world.restorer.rotation.rotate(key_id, OPERATOR, options)


def _paid(world: Restored, name: str) -> Refund:
    """Return a refund that the active key has paid."""
    refund = world.step(requested(world, name), times=3)
    world.settle()
    return world.stored(refund)


def _ring(world: Restored) -> list[tuple[str, str, KeyState]]:
    keys = world.store.keys()
    return [(key.address, key.key_id, key.state) for key in keys]


def test_all_key_changes_are_repeated(world: Restored, keys: Keys) -> None:
    """
    Rotations, a failover and a revocation: the ring is as it was, each refund is paid
    once, and a second restore finds nothing to do (R24, O8).
    """
    softhsm, (first, _, third) = world.directory, keys
    assert isinstance(softhsm, PKCS11Backend)
    secret = bitcurve.PrivateKey().secret
    second, replica = (KeyId(secrets.token_hex(16)), KeyId(secrets.token_hex(16)))
    for key_id in (second, replica):
        import_key(softhsm, key_id, f"restore {key_id}", bytearray(secret))
    refunds = [_paid(world, "before")]
    copy = world.backup()
    refunds.append(_paid(world, "of the first"))
    _rotate(world, second)
    refunds.append(_paid(world, "of the second"))
    world.restorer.failover.fail_over(replica, OPERATOR)
    refunds.append(_paid(world, "of its replica"))
    _rotate(world, third, compromised=True)
    world.restorer.revocation.revoke(_address(world, first), OPERATOR)
    refunds.append(world.step(requested(world, "of the third"), times=3))
    ring, records = _ring(world), list(world.log)
    world.store = copy

    without = plan_of(world, records)
    plan = world.restore(records, key_ids=[second, replica, third])
    restored = _ring(world)
    again = plan_of(world, records)
    ended = world.finish(*refunds)
    world.work()

    assert [(key_id, state) for _, key_id, state in ring] == [
        (third, KeyState.ACTIVE),
        (replica, KeyState.BLOCKED),
        (first, KeyState.BLOCKED),
    ]
    starts = [each.split("begins with ")[1] for each in without.problems]
    assert starts == [key_prefix(each) for each in (second, replica, third)]
    assert [str(each.action) for each in plan.key_changes] == [
        "key-rotate",
        "key-failover",
        "key-rotate",
        "key-revoke",
    ]
    assert restored == ring
    assert again.is_empty
    assert again.problems == []
    assert [each.status for each in ended] == [Status.CONFIRMED] * 5
    assert [each.nonce for each in ended] == [each.nonce for each in refunds]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 5
    assert not world.store.paused_wallets()


def test_a_rotation_to_another_key_and_back(world: Restored, keys: Keys) -> None:
    """The other key is in the ring again, and signs for its nonces (R24)."""
    first, second, _ = keys
    before = _paid(world, "before")
    copy = world.backup()
    _rotate(world, second)
    there = world.step(requested(world, "there"), times=2)
    _rotate(world, first)
    back = world.step(requested(world, "back"), times=3)
    ring, records = _ring(world), list(world.log)
    world.store = copy

    plan = world.restore(records, key_ids=[first, second])
    restored = _ring(world)
    again = plan_of(world, records)
    ended = world.finish(before, there, back)
    new = world.finish(requested(world, "new"))[0]
    world.work()

    assert len(plan.key_changes) == 2
    assert restored == ring
    assert again.is_empty
    assert [(each.status, each.sender, each.nonce) for each in ended] == [
        (Status.CONFIRMED, _address(world, key_id), nonce)
        for key_id, nonce in ((first, 0), (second, 0), (first, 1))
    ]
    assert (new.sender, new.nonce) == (_address(world, first), 2)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 4
    assert not world.store.paused_wallets()

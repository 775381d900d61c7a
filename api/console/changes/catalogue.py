"""All changes of the console."""

from collections.abc import Sequence

from api.console.changes.approvals import APPROVE, BREAK_GLASS, REJECT
from api.console.changes.change import Change
from api.console.changes.refunds import CANCEL
from api.console.changes.revocation import REINSTATE, REVOKE
from api.console.changes.rotation import (
    FAIL_OVER,
    REHEARSE_FAILOVER,
    REHEARSE_ROTATION,
    ROTATE,
)
from api.console.changes.stops import RESUME, STOP
from api.console.changes.tenants import BLOCK, UNBLOCK
from api.console.changes.wallets import ABANDON, REPAIR
from api.console.changes.webhooks import REPLAY, REPLAY_DEAD


CHANGES: Sequence[Change] = (
    STOP,
    RESUME,
    BLOCK,
    UNBLOCK,
    REPAIR,
    ABANDON,
    REHEARSE_ROTATION,
    ROTATE,
    REHEARSE_FAILOVER,
    FAIL_OVER,
    REVOKE,
    REINSTATE,
    REPLAY,
    REPLAY_DEAD,
    CANCEL,
    APPROVE,
    REJECT,
    BREAK_GLASS,
)
"""Each has its routes and its permission by being listed here."""

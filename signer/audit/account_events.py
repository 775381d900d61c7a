"""
The log of the audit events of an account that a program opened as a library.

structlog prints to standard output unless a program configures it.  There a program may
write its result, so a library must not.
"""

import json
import logging
import sys
from typing import Any


class AccountEvents:
    """
    Writes to structlog's logger ``audit`` if the program configured structlog.

    Otherwise each event is a line of JSON for the logger ``hotwallet.audit`` of the
    standard library, at ``INFO``.
    """

    def info(self, event: str, **fields: Any) -> None:
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            structlog.get_logger("audit").info(event, **fields)
        else:
            line = json.dumps({"event": event, **fields}, sort_keys=True)
            logging.getLogger("hotwallet.audit").info("%s", line)

"""
The parts of one process, each made when it is first used.

Each file has one layer of the container, as a class that extends those of the layers
below it: a part is made of the parts of its own layer and of lower ones.  It imports
``signer`` and the packages of ``api`` that the parts come from, and no backend.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from api.container.serving import ServingParts
from api.container.worker import WorkerParts


__all__ = ["Container"]


@dataclass(kw_only=True, eq=False, repr=False)
class Container(ServingParts, WorkerParts):
    """
    Opens and joins the parts of one process; make it after the fork.

    A part is made when it is first used and then kept, so a command opens only what it
    needs: ``store`` and ``chains`` need no key, ``rotation`` does not need the old key,
    and only a process that checks tokens reads ``jwt_keys``, and imports PyJWT and
    Falcon.

    ``api/bootstrap.py`` makes containers, and passes the ``open_...`` functions of
    ``api/backend_factories.py``.  A part raises ``ConfigurationError`` if it cannot be
    opened.
    """

    warnings: Sequence[str] = ()  # Of the guard.

"""What the emulators of both clouds share: the server, its journal and its faults."""

import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from types import TracebackType
from typing import ClassVar, Self

from dev.kms_signing import Signing, as_given
from dev.kms_wire import Call, Exchange, Faults, Handler, Reply, Server


class EmulatedService(ABC):
    """
    A service on 127.0.0.1, in threads of this process.  Use it as a context manager.

    ``journal`` has every request, oldest first, and ``faults`` scripts failures by
    operation.  *port* 0 is any free one.
    """

    handler: ClassVar[type[Handler]] = Handler
    """Reads the requests."""

    def __init__(self, port: int = 0) -> None:
        self.faults = Faults()
        self.journal: deque[Call] = deque(maxlen=100_000)
        self._server = Server(port, self._handle, self.handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=type(self).__name__
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.faults.clear()
        self._server.close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """The URL of the service."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @abstractmethod
    def respond(self, call: Call, signing: Signing) -> Reply:
        """Return the reply to *call*; *signing* signs digests."""

    def is_down(self, call: Call) -> bool:
        """Return whether *call* gets no response."""
        return False

    def _handle(self, call: Call, connection: socket.socket) -> Reply | None:
        self.journal.append(call)
        if self.is_down(call):
            return None
        exchange = Exchange(
            call=call,
            connection=connection,
            released=self.faults.released,
            respond=lambda signing: self.respond(call, signing or as_given),
        )
        fault = self.faults.take(call.operation)
        return fault(exchange) if fault else exchange.respond(None)

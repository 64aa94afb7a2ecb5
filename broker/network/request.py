"""One request on its way: its header, its bytes, and its place in the order of answers of its connection."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wal.entry import Buffer

if TYPE_CHECKING:
    from broker.network.connection import Connection
    from broker.network.dispatcher import Route

_PREFIX = struct.Struct(">ii")
_PREFIX_FLEXIBLE = struct.Struct(">iib")


class Request:
    """A request and the slot of its answer.

    Use: exactly one of `reply`, `reply_parts`, `reply_nothing`, `close` ends it; a second one is ignored (a time limit and a late result may cross).
    `buffer[position:]` is the body. For Produce it is a writable memoryview of a buffer of its own, for all others `bytes`.
    `error_answer(code, message)` makes an error of this very request, known once its body is decoded; `on_disconnect` is called when the client goes.
    Invariant: `buffer` is let go when the request ends; whoever still needs bytes of it keeps views of them.
    """

    __slots__ = (
        "_flexible",
        "api_version",
        "buffer",
        "client_id",
        "close_after",
        "connection",
        "correlation_id",
        "done",
        "error_answer",
        "on_disconnect",
        "parts",
        "parts_size",
        "position",
        "route",
        "size",
        "started_ns",
    )

    def __init__(self, connection: Connection, route: Route, api_version: int, correlation_id: int, buffer: Buffer) -> None:
        self.connection = connection
        self.route = route
        self.api_version = api_version
        self.correlation_id = correlation_id
        self.buffer: Buffer = buffer
        self.size = len(buffer)
        self.position = 0
        self.client_id: str | None = None
        self.error_answer: Callable[[int, str], bytes] | None = None
        self._flexible = api_version >= route.flexible_response_from
        self.done = False
        self.close_after = False
        self.parts: Sequence[Buffer] = ()
        self.parts_size = 0
        self.on_disconnect: Callable[[], None] | None = None
        self.started_ns = 0

    def _head(self, size: int) -> bytes:
        """Length and response header for a body of `size` bytes."""
        return _PREFIX_FLEXIBLE.pack(size + 5, self.correlation_id, 0) if self._flexible else _PREFIX.pack(size + 4, self.correlation_id)

    def reply(self, body: bytes) -> None:
        """Answer with `body`, the response without its header."""
        if self.done:
            return
        head = self._head(len(body))
        self.parts = (head + body,)
        self.parts_size = len(head) + len(body)
        self.done = True
        self.connection.completed(self)

    def reply_parts(self, parts: Sequence[Buffer], size: int) -> None:
        """Answer with a body of `size` bytes in pieces, which must not change until they are sent."""
        if self.done:
            return
        head = self._head(size)
        self.parts = (head, *parts)
        self.parts_size = len(head) + size
        self.done = True
        self.connection.completed(self)

    def reply_raw(self, body: bytes) -> None:
        """Answer with the plain correlation id (response header v0) and `body`, whatever the route says."""
        self._flexible = False
        self.reply(body)

    def reply_nothing(self) -> None:
        """End without an answer (Produce with acks=0)."""
        if self.done:
            return
        self.done = True
        self.connection.completed(self)

    def close(self) -> None:
        """End without an answer, and close the connection once the answers before this one are sent."""
        if self.done:
            return
        self.close_after = True
        self.done = True
        self.connection.completed(self)

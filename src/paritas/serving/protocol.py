"""uvicorn's HTTP protocol, with limits to what a connection sends beside bodies, and to how long it takes."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
# Also of a connection that sends nothing at all.
_HEAD_S = 15.0
# How long a client may not read what was written to it.
_WRITE_S = 30.0
# How long the rest of a body is read that was refused before it came whole. Who sends it before reading would
# see a broken connection in place of the answer.
_REST_S = 30.0
# Requests that may be sent before the answer to the first; few clients send a second.
_MOST_PIPELINED = 16


class Protocol(HttpToolsProtocol):
    """One connection. It ends where a head has no end; a whole one is the application's to refuse."""

    _head: asyncio.TimerHandle | None = None
    """Runs while a head is to come: from the connection's beginning, and from what comes after an answer."""
    _head_bytes = 0
    _stalled: asyncio.TimerHandle | None = None
    """Runs while the client does not read."""
    _in_body = False
    _idle_bytes = 0
    """Of chunk sizes and trailers, since the body had a byte more."""
    _rest: asyncio.TimerHandle | None = None
    """Runs while the rest of a body comes that was answered already."""

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._begin_head()

    def data_received(self, data: bytes) -> None:
        """Take what came, and close the connection where the head has no end."""
        before = self._head
        self._idle_bytes += len(data)
        super().data_received(data)
        if self._in_body:
            if self._idle_bytes > MAX_HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")
            return
        if self._head is None:
            # Any byte ends uvicorn's wait for the next request, a line end too.
            if self._is_idle() and self.timeout_keep_alive_task is None:
                self._begin_head()
            return
        if self._head is before:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Wait for the head of the next request, too."""
        super().on_message_begin()
        if self._head is None:
            self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head; trailers, which come after the body without a bound, are for nobody."""
        if self._head is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Wait no longer for the head.

        Raises:
            ValueError: too many requests wait for their answers; it ends the connection.
        """
        self._end_head()
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise ValueError("too many requests before the first answer")
        self._in_body, self._idle_bytes = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait no longer for the body."""
        self._in_body = False
        self._end_rest()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, and read no more while there is one."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        if self._in_body and self._is_idle() and self._rest is None:
            self._rest = self.loop.call_later(_REST_S, self.transport.abort)

    def pause_writing(self) -> None:
        """Give a client that does not read its time."""
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(_WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        self._end_stall()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether or not its client reads what was written."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_WRITE_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        self._end_head()
        self._end_stall()
        self._end_rest()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _begin_head(self) -> None:
        self._head_bytes = 0
        self._head = self.loop.call_later(_HEAD_S, self._too_slow)

    def _end_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _end_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _end_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _too_slow(self) -> None:
        if self._is_idle():
            self._refuse(b"408 Request Timeout")
        else:  # part of the next head came before this answer
            self._head = self.loop.call_later(_HEAD_S, self._too_slow)

    def _refuse(self, status: bytes) -> None:
        self._end_head()
        if not self.transport.is_closing():
            headers = b"content-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + headers)
            self.transport.close()
            self.loop.call_later(_WRITE_S, self.transport.abort)

"""A gunicorn worker that slow clients cannot hold, nor busy ones, and that loses no request."""

import fcntl
import socket
import struct
import termios
from contextlib import nullcontext, suppress
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.workers.ggevent import GeventWorker

STEP = 2**16  # bytes read at once of what the application left of a body
MAX_UNREAD = 2**20  # after more than this, the connection ends
SEND_BUFFER = 2**15  # bytes of an unread answer in the kernel; Linux doubles it


def unread(request: Request) -> int:
    """Return how many bytes of the body are left, or 1 where that cannot be known."""
    # LengthReader counts `length` down, ChunkedReader drops its `parser` after the last chunk,
    # and `failed` says that a read of the Body has raised.
    reader = request.body.reader
    return getattr(reader, "length", 0) or bool(request.body.failed or getattr(reader, "parser", 0))


class Listener(StreamServer):  # type: ignore[misc]  # gevent and gunicorn have no types
    # One a turn, as the next is the other workers' too; more where many are served a turn.
    max_accept = property(lambda self: 1 + len(self.pool) // 16)

    def start_accepting(self) -> None:
        """Accept before the ready connections, and serve at once: not one or two turns later."""
        super().start_accepting()
        self._watcher.stop()
        self._watcher.priority = self.loop.MAXPRI
        self._watcher.start(self._do_read)

    def do_handle(self, *connection: Any) -> None:
        self.pool.spawn(self._handle, *connection).switch()

    def close(self) -> None:
        """Accept what is queued first: closing would reset it."""
        # do_read returns the arguments of do_handle, or None where nothing is queued.
        with suppress(OSError):  # without a file descriptor left, those that run come first
            while not self.closed and (connection := self.do_read()):
                self.pool.spawn(self._handle, *connection)
        super().close()


class Worker(GeventWorker):  # type: ignore[misc]
    """A GeventWorker with a deadline for each head, and for each body with its answer."""

    timeout_ctx = nullcontext  # gunicorn's own would drop a request that is just arriving

    # GeventWorker.run calls it with its pool as `spawn`, and with what only a WSGIServer needs.
    def server_class(self, listener: socket.socket, *, spawn: Any, **other: Any) -> Listener:
        self.pool = spawn
        self.deadlines: dict[Any, Any] = {}  # a timer for each connection
        self.waiting: dict[Any, bool] = {}  # the idle ones, oldest first: had it a request before?
        tls = {"ssl_context": other["ssl_context"]} if "ssl_context" in other else {}
        return Listener(listener, self.serve, spawn=spawn, **tls)

    def serve(self, client: Any, address: Any) -> None:
        if self.waiting and self.pool.free_count() <= self.pool.size // 16:
            self.expire(min(self.waiting, key=self.waiting.__getitem__))  # the oldest silent one
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.waiting[client] = False
        self.deadlines[client] = client.hub.loop.timer(0, self.cfg.keepalive)
        self.deadlines[client].again(self.expire, client)
        self.handle(client, client, address)  # for its address, as the listener may be closed
        self.waiting.pop(client, None)
        self.deadlines.pop(client).close()

    def handle_request(self, listener: Any, request: Request, client: Any, address: Any) -> None:
        self.waiting.pop(client, None)
        self.deadlines[client].again(self.expire, client)
        if unread(request) > MAX_UNREAD:
            request.force_close()
        try:
            super().handle_request(listener, request, client, address)
            all(request.body.read(STEP) for _ in range(0, MAX_UNREAD, STEP))  # stops at its end
            gevent.sleep(1e-9)  # sleep(0) returns before the event loop looks for other requests
        except (StopIteration, ParseException):  # gunicorn's ways to end a connection
            request.force_close()
        if unread(request):  # a close would reset the connection, and lose the answer
            request.force_close()
            client.shutdown(socket.SHUT_WR)
            all(client.recv(STEP) for _ in range(0, 16 * MAX_UNREAD, STEP))
        self.waiting[client] = True
        self.deadlines[client].again(self.expire, client)

    def expire(self, client: Any) -> None:
        """End a connection, but serve a request that has just arrived on an idle one."""
        idle = self.waiting.pop(client, None) is not None
        with suppress(OSError):
            # gevent's own shutdown would fail the greenlet's recv, the plain socket's lets it read.
            client._sock.shutdown(socket.SHUT_RD)
            # Else unsent data stays in the kernel for minutes; at TERM, idle connections keep it.
            if not idle or (self.alive and any(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client._sock.shutdown(socket.SHUT_WR)

    def handle_exit(self, *signal: Any) -> None:
        super().handle_exit(*signal)
        # GeventWorker.run looks once a second, and has closed the listener by then.
        gevent.spawn_later(1.2, lambda: [*map(self.expire, list(self.waiting))])

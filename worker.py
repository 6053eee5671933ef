"""A gunicorn worker that slow clients cannot hold, nor busy ones, and that loses no request."""

import fcntl
import math
import socket
import struct
import termios
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.workers.ggevent import GeventWorker

STEP = 2**16  # bytes read at once of what the application left of a body
MAX_UNREAD = 2**20  # after more than this, the connection ends
SEND_BUFFER = 2**15  # bytes of an unread answer in the kernel; Linux doubles it


def unread(request: Request) -> float:
    """Return how many bytes of the body are left, math.inf where that cannot be known."""
    # LengthReader counts `length` down, ChunkedReader drops its `parser` after the last chunk,
    # and `failed` says that a read of the Body has raised.
    reader = request.body.reader
    unknown = request.body.failed or getattr(reader, "parser", None)
    return math.inf if unknown else getattr(reader, "length", 0)


class Listener(StreamServer):  # type: ignore[misc]  # gevent and gunicorn have no types
    """Accepts connections for one worker."""

    @property
    def max_accept(self) -> int:
        """One a turn, as the next is the other workers' too; more where many are served a turn."""
        return 1 + len(self.pool or ()) // 16

    def start_accepting(self) -> None:
        """Accept before the ready connections, and serve at once: not one or two turns later."""
        super().start_accepting()
        self._watcher.stop()
        self._watcher.priority = self.loop.MAXPRI
        self._watcher.start(self._do_read)

    def do_handle(self, client: socket.socket, address: Any) -> None:
        greenlet = self.pool.spawn(self._handle, client, address)
        if gevent.getcurrent() is gevent.get_hub():  # else in close(), which has to go on itself
            greenlet.switch()

    def close(self) -> None:
        """Accept what is queued first: closing would reset it."""
        # do_read returns the arguments of do_handle, or None where nothing is queued.
        with suppress(OSError):  # without a file descriptor left, those that run come first
            while not self.closed and (connection := self.do_read()):
                self.do_handle(*connection)
        super().close()


class Worker(GeventWorker):  # type: ignore[misc]
    """A GeventWorker with a deadline for each head, and for each body with its answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deadlines: dict[Any, Any] = {}  # a timer for each connection
        self.waiting: dict[Any, bool] = {}  # the idle ones, oldest first: had it a request before?

    # GeventWorker.run calls it with its pool as `spawn`, and with what only a WSGIServer needs.
    def server_class(self, listener: socket.socket, *, spawn: Any, **other: Any) -> Listener:
        self.pool = spawn
        tls = {"ssl_context": other["ssl_context"]} if "ssl_context" in other else {}
        self.listener = Listener(listener, partial(self.handle, listener), spawn=spawn, **tls)
        return self.listener

    def timeout_ctx(self) -> AbstractContextManager[None]:
        return nullcontext()  # gunicorn's own would drop a request that is just arriving

    def handle(self, listener: socket.socket, client: Any, address: Any) -> None:
        if self.waiting and self.pool.free_count() <= self.pool.size // 16:
            self.expire(min(self.waiting, key=self.waiting.__getitem__))  # the oldest silent one
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.deadlines[client] = client.hub.loop.timer(0, self.cfg.keepalive)
        self.wait(client, served=False)
        # The listener is asked for its address, but may be closed by now: the client's is the same.
        super().handle(client, client, address)
        self.waiting.pop(client, None)
        self.deadlines.pop(client).close()

    def wait(self, client: Any, served: bool = True) -> None:
        self.waiting[client] = served
        self.deadlines[client].again(self.expire, client)

    def handle_request(self, listener: Any, request: Request, client: Any, address: Any) -> None:
        self.waiting.pop(client, None)
        self.deadlines[client].again(self.expire, client)
        if math.inf > unread(request) > MAX_UNREAD:
            request.force_close()
        try:
            super().handle_request(listener, request, client, address)
            for _ in range(0, MAX_UNREAD, STEP):
                if not (unread(request) and request.body.read(STEP)):
                    break
            if unread(request):
                raise StopIteration  # by which gunicorn ends a connection
        except (StopIteration, ParseException):
            if unread(request):  # else the client's kernel drops the answer with a reset
                client.shutdown(socket.SHUT_WR)
                for _ in range(0, 16 * MAX_UNREAD, STEP):
                    if not client.recv(STEP):
                        break
            raise StopIteration from None
        gevent.sleep(1e-9)  # sleep(0) returns before the event loop has looked for other requests
        self.wait(client)

    def expire(self, client: Any, reset: bool = True) -> None:
        """End a connection, but serve a request that has just arrived on an idle one."""
        with suppress(OSError):
            idle = self.waiting.pop(client, None) is not None
            unsent = any(fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4)))
            if not idle or (reset and unsent):  # else the kernel keeps the unsent for minutes
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client._sock.shutdown(socket.SHUT_WR)
            # gevent's own shutdown would fail the greenlet's recv, the plain socket's lets it read.
            client._sock.shutdown(socket.SHUT_RD)

    def handle_exit(self, *signal: Any) -> None:
        super().handle_exit(*signal)
        gevent.spawn_later(0.5, self.listener.close)  # GeventWorker.run looks only once a second
        gevent.spawn_later(1.2, self.hang_up)

    def hang_up(self) -> None:
        for idle in list(self.waiting):
            self.expire(idle, reset=False)

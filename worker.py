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

# What the application leaves unread of a body is read up to here. After more, the connection ends.
MAX_UNREAD = 2**20
STEP = 2**16

# What the kernel holds of an answer that its client does not read; Linux doubles it.
SEND_BUFFER = 2**15


def unread(request: Request) -> float:
    """Return how many bytes of the body the application left, math.inf for more chunks."""
    # gunicorn's LengthReader counts down its `length`; its ChunkedReader drops its `parser` after
    # the last chunk, and its Body says with `failed` that a read has raised.
    reader = request.body.reader
    more = request.body.failed or getattr(reader, "parser", None)
    return math.inf if more else getattr(reader, "length", 0)


class Listener(StreamServer):
    """Accepts connections for one worker."""

    @property
    def max_accept(self) -> int:
        """One a turn, for the next is the other workers' as well; more where turns are long."""
        return 1 + len(self.pool or ()) // 16

    def close(self) -> None:
        """Accept what is queued first: closing would reset it."""
        # gevent's BaseServer calls do_read for what it passes to do_handle; None: nothing waits.
        while not self.closed and (connection := self.do_read()):
            self.do_handle(*connection)
            gevent.sleep(0)
        super().close()


class Worker(GeventWorker):
    """A GeventWorker with deadlines for heads, bodies and answers, and room for newcomers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timers: dict[socket.socket, Any] = {}
        self.waiting: dict[socket.socket, None] = {}  # between two requests, the oldest first

    # GeventWorker passes these keywords, and its pool of greenlets as `spawn`.
    def server_class(self, listener: socket.socket, *, spawn: Any, **other: Any) -> Listener:
        self.pool = spawn
        return Listener(listener, partial(self.handle, listener), spawn=spawn)

    def timeout_ctx(self) -> AbstractContextManager[None]:
        return nullcontext()  # the timers do it, without an exception that would drop a request

    def handle(self, listener: socket.socket, client: socket.socket, address: Any) -> None:
        if self.waiting and self.pool.free_count() <= self.pool.size // 10:
            self.expire(next(iter(self.waiting)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        seconds = self.cfg.keepalive
        self.timers[client] = gevent.get_hub().loop.timer(seconds, seconds)
        self.wait(client)
        # The listener is asked for its address, but may be closed by now: the client's is the same.
        super().handle(client, client, address)
        self.waiting.pop(client, None)
        self.timers.pop(client).close()

    def wait(self, client: socket.socket) -> None:
        self.waiting[client] = None
        self.timers[client].again(self.expire, client)

    def handle_request(
        self, listener_name: Any, request: Request, client: socket.socket, address: Any
    ) -> None:
        self.waiting.pop(client, None)
        self.timers[client].again(self.expire, client)
        if math.inf > unread(request) > MAX_UNREAD:
            request.force_close()
        try:
            super().handle_request(listener_name, request, client, address)
            if unread(request):
                for _ in range(0, MAX_UNREAD, STEP):
                    request.body.read(STEP)
            if unread(request):
                raise StopIteration  # gunicorn's way to end a connection
        except (StopIteration, ParseException):
            if unread(request):  # else the client's kernel drops the answer with a reset
                client.shutdown(socket.SHUT_WR)
                for _ in range(0, 16 * MAX_UNREAD, STEP):
                    if not client.recv(STEP):
                        break
            raise StopIteration from None
        gevent.sleep(
            1e-9
        )  # the others' turn: a sleep(0) would not let in who has just become ready
        self.wait(client)

    def expire(self, client: socket.socket) -> None:
        """End a connection at its deadline, but serve a request that has just arrived."""
        with suppress(OSError):
            idle = self.waiting.pop(client, client) is None
            if not idle or any(fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4))):
                # With a reset: the kernel would keep an answer that is not read for minutes.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client._sock.shutdown(socket.SHUT_WR)
            # gevent's own shutdown would fail the recv: its plain socket lets it read to the end.
            client._sock.shutdown(socket.SHUT_RD)

    def handle_exit(self, *signal: Any) -> None:
        super().handle_exit(*signal)
        gevent.spawn_later(2, self.hang_up)

    def hang_up(self) -> None:
        """End the idle connections as above, but leave the kernel what it has to send."""
        for client in self.waiting:
            with suppress(OSError):
                client._sock.shutdown(socket.SHUT_RD)

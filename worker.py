"""The gunicorn worker: slow clients cannot hold it, nor busy ones, and it loses no request.

It is gunicorn's GeventWorker with a `run` of its own. What it relies on beyond the documentation
of gunicorn: AsyncWorker.handle serves a connection, waits for each head within timeout_ctx, calls
handle_request for each request and handle_error for what it cannot read; StopIteration ends a
connection; a Request has headers, body and force_close; a client needs the methods of Client and
no others. tests/test_worker.py fails where that is no longer so.
"""

import fcntl
import socket
import struct
import termios
import time
from contextlib import nullcontext, suppress
from typing import Any

import gevent
from gevent.pool import Pool
from gunicorn.http.errors import LimitRequestHeaders, ParseException
from gunicorn.http.message import Request
from gunicorn.util import write_error
from gunicorn.workers.ggevent import GeventWorker

from settings import without_prefix

TIMEOUT = 10  # seconds that a client has for a head, and again for the body and the answer
RATE = 64_000  # bytes a second, half a megabit: who sends and receives as fast goes on longer
PAUSE = 0.5  # seconds without a request, after which a stopping worker ends a connection
A_TURN = 1e-9  # seconds: sleep(0) returns before the event loop looks who else is ready
SWEEP = 0.1  # seconds from one look for connections whose time is over to the next
MAX_HEAD = 2**16  # bytes; the load balancers of AWS and Azure pass on no longer one
MAX_PIECES = 256  # that a head may come in: gunicorn searches the whole of it with each
MAX_REST = 2**24  # bytes that are still read at the end: unread ones would make it a reset
STEP = 2**16  # bytes that are read at once of what nobody needs, or sent at once
SEND_BUFFER = 2**15  # bytes of an unread answer in the kernel; Linux doubles it


def check_settings(arbiter: Any) -> None:
    """Stop the start, with a sentence, for a setting with which Worker would not serve as it says.

    gunicorn calls it as its hook on_starting, with the settings of the command line, too.
    """
    if arbiter.cfg.workers < 1:
        raise SystemExit("WEB_CONCURRENCY or --workers is 0, and has to be 1 or more.")
    if arbiter.cfg.is_ssl:
        raise SystemExit("TLS is left to a proxy: start without --certfile and --keyfile.")
    if "h2" in arbiter.cfg.http_protocols:
        raise SystemExit("HTTP/2 is left to a proxy: start without h2 in --http-protocols.")


class Worker(GeventWorker):  # type: ignore[misc]  # gevent and gunicorn have no types
    """A GeventWorker that ends every connection whose time is over.

    Each connection is in one of three dicts, which are sets in the order of entrance: `silent`
    until its first request has come and after its last, `idle` between two requests, and `busy`
    from the end of a head to the end of the answer.
    """

    timeout_ctx = nullcontext  # gunicorn's own would drop a request that is just arriving

    def run(self) -> None:
        """Serve until the worker is to stop, and then what is running and what is queued."""
        self.silent: dict[Client, None] = {}
        self.idle: dict[Client, None] = {}
        self.busy: dict[Client, None] = {}
        self.pool = Pool(self.worker_connections + len(self.sockets))
        for listener in self.sockets:
            listener.setblocking(True)
            self.pool.spawn(self.accept, listener, 1)
        while self.alive:
            self.notify()
            self.end_overdue()
            if self.pool.full():  # then nobody is accepted, who would make room
                self.make_room()
            gevent.sleep(SWEEP)
        for listener in self.sockets:
            self.accept_queue(listener)
            listener.close()
        end = time.monotonic() + self.cfg.graceful_timeout
        while time.monotonic() < end:
            self.notify()
            self.end_unused()
            gevent.sleep(SWEEP)
            if not self.silent and not self.idle and not self.busy:
                return
        self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def accept(self, listener: Any, this_turn: int) -> None:
        """Accept one connection and serve it at once, beside a successor that accepts the next.

        A turn of the event loop accepts one, as the next is the other workers' too, but more where
        it answers many: `this_turn` says how many it may still accept.
        """
        if this_turn == 0:
            gevent.sleep(A_TURN)
            this_turn = 1 + len(self.pool) // 16
        while self.alive:
            try:
                connection, address = listener.accept()
            except OSError:  # no file descriptor is free, or `run` has closed the listener
                gevent.sleep(SWEEP)
                continue
            if self.pool.free_count() <= self.pool.size // 16:
                gevent.sleep(A_TURN)  # so that what has come on silent connections is read
                self.make_room()
            self.pool.spawn(self.accept, listener, this_turn - 1)  # waits where no place is free
            self.serve(Client(connection), address)
            return

    def accept_queue(self, listener: Any) -> None:
        """Serve the connections that wait in the kernel: closing the listener would reset them."""
        listener.setblocking(False)
        with suppress(OSError):  # the queue is empty, or no file descriptor is free
            while True:
                connection, address = listener.accept()
                client = Client(connection)
                self.put(client, self.silent, TIMEOUT)
                gevent.spawn(self.serve, client, address)

    def serve(self, client: "Client", address: Any) -> None:
        """Serve a connection until its end."""
        self.put(client, self.silent, TIMEOUT)
        if isinstance(address, tuple):  # it is text where the listener is a Unix socket
            address = (without_prefix(address[0]), address[1])
        self.handle(client, client, address)
        self.put(client, self.silent, TIMEOUT)
        client.finish()
        del self.silent[client]

    def handle_request(
        self, listener: Any, request: Request, client: "Client", address: Any
    ) -> None:
        """Answer a request, and read the rest of its body, which stands before the next one."""
        self.put(client, self.busy, TIMEOUT)
        client.reads_head = False
        limit = self.wsgi.config["MAX_CONTENT_LENGTH"]
        if content_length(request) > limit:
            request.force_close()  # Flask refuses to read it, and this way the answer says so
        super().handle_request(listener, request, client, address)
        client.flush()
        read_rest(request, limit)
        client.start_head()
        self.put(client, self.idle, self.cfg.keepalive)
        gevent.sleep(A_TURN)  # others go first

    def handle_error(self, request: Any, client: "Client", address: Any, error: Exception) -> None:
        """Refuse what cannot be read as a request, so that a page of any origin sees why."""
        client.refuses = True
        if isinstance(error, HeadInPieces):
            self.log.warning("Invalid request from ip=%s: %s", address[0], error)
            write_error(client, 408, "Request Timeout", str(error))
        else:
            super().handle_error(request, client, address, error)

    def put(self, client: "Client", clients: "dict[Client, None]", timeout: int) -> None:
        """Put a connection behind the others in one of the three dicts, and give it so long."""
        for others in (self.silent, self.idle, self.busy):
            others.pop(client, None)
        clients[client] = None
        client.begin_time(timeout)

    def make_room(self) -> None:
        """End the oldest silent connection, or else the oldest idle one, for a new one."""
        for clients in (self.silent, self.idle):
            for client in clients:
                client.end()
                return

    def end_overdue(self) -> None:
        """End every connection whose time is over."""
        now = time.monotonic()
        for client in [*self.silent, *self.idle]:
            if now > client.deadline:
                client.end()
        for client in self.busy:
            if now > client.deadline:
                client.reset()

    def end_unused(self) -> None:
        """End every connection without a request.

        A client that asks without a pause has been told with its last answer that it was the last
        one on this connection. If one asked just now nevertheless, it is still served.
        """
        now = time.monotonic()
        for client in [*self.silent, *self.idle]:
            if now > client.since + PAUSE:
                client.stop_reading()


class HeadInPieces(Exception):
    """A request's head has come in more than MAX_PIECES pieces."""


class Client:
    """A client's connection, with the methods of a socket that gunicorn calls.

    It bounds the head of each request, gives a client more time that sends and receives, and sends
    the head of an answer together with the body.
    """

    def __init__(self, connection: Any) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.socket = connection
        self.since = 0.0  # when its time began, in seconds of time.monotonic
        self.deadline = 0.0  # when its time is over
        self.had_request = False
        self.reads_head = True  # not a body, nor the rest at the end
        self.head_length = 0  # bytes received of this head; the last piece may have more than it
        self.head_pieces = 0
        self.held = b""  # the head of an answer, until its body comes
        self.refuses = False

    def begin_time(self, timeout: int) -> None:
        self.since = time.monotonic()
        self.deadline = self.since + timeout

    def earn_time(self, moved: int) -> None:
        """Move the deadline on for the bytes that moved, but not beyond what a stalled one has."""
        self.deadline = min(self.deadline + moved / RATE, time.monotonic() + TIMEOUT)

    def start_head(self) -> None:
        """Note that what comes now is the head of a further request."""
        self.had_request = True
        self.reads_head = True
        self.head_length = 0
        self.head_pieces = 0

    def recv(self, size: int) -> bytes:
        """Receive bytes of a head within its bounds, or of a body."""
        if not self.reads_head:
            data = self.socket.recv(size)
            self.earn_time(len(data))
            return data
        if self.head_length >= MAX_HEAD:
            raise LimitRequestHeaders(f"the head is longer than {MAX_HEAD} bytes")
        if self.head_pieces >= MAX_PIECES:
            raise HeadInPieces(f"The head comes in more than {MAX_PIECES} pieces.")
        data = self.socket.recv(size)
        if self.had_request and self.head_pieces == 0:
            self.begin_time(TIMEOUT)  # until now it was idle, and had longer
        self.head_length += len(data)
        self.head_pieces += 1
        return data

    def send(self, data: bytes) -> int:
        return self.socket.send(data)

    def sendall(self, data: bytes) -> None:
        """Send data, but hold an answer's head until its body comes: one packet costs less."""
        if self.refuses:
            data = data.replace(b"\r\n", b"\r\nAccess-Control-Allow-Origin: *\r\n", 1)
        if not self.held and data.endswith(b"\r\n\r\n"):
            self.held = data
            return
        for start in range(0, len(data), STEP):  # in steps, as only what has moved earns time
            piece = self.held + data[start : start + STEP]
            self.held = b""
            self.socket.sendall(piece)
            self.earn_time(len(piece))

    def flush(self) -> None:
        """Send what is held: the head of an answer without a body."""
        if self.held:
            self.socket.sendall(self.held)
            self.held = b""

    def getsockname(self) -> Any:
        return self.socket.getsockname()

    def gettimeout(self) -> float | None:
        return self.socket.gettimeout()

    def setblocking(self, blocking: bool) -> None:
        self.socket.setblocking(blocking)

    def shutdown(self, how: int) -> None:
        self.socket.shutdown(how)

    def close(self) -> None:
        """Do nothing: gunicorn closes at once, and Worker.serve calls `finish` then."""

    def finish(self) -> None:
        """Close the connection when the client has, or has had its time to read the answer.

        Closing with unread bytes would reset the connection, and the answer would be lost.
        """
        self.reads_head = False
        rest = 0
        with suppress(OSError):
            self.flush()
            self.socket.shutdown(socket.SHUT_WR)
            while length := len(self.recv(STEP)):
                rest += length
                if rest > MAX_REST:
                    break
        self.socket.close()

    def end(self) -> None:
        """End an unused connection, but serve a request that has just arrived on it."""
        if self.has_unread_answer():
            self.reset()  # else the kernel would keep the answer for minutes
        else:
            self.stop_reading()

    def has_unread_answer(self) -> bool:
        try:
            unsent = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # macOS has no such count
            return False
        return any(unsent)

    def stop_reading(self) -> None:
        """Let the recv that waits, or else the next one, return b"" after what has arrived."""
        self.shutdown_beneath(socket.SHUT_RD)

    def reset(self) -> None:
        """End the connection at once, with what the client has not read of an answer."""
        with suppress(OSError):
            at_once = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.shutdown_beneath(socket.SHUT_RDWR)

    def shutdown_beneath(self, how: int) -> None:
        """Shut the connection down through a second socket for it.

        On the first one, gevent would make the recv that waits fail, and lose what has arrived.
        """
        with suppress(OSError), self.socket.dup() as second:  # it may have ended by now
            second.shutdown(how)


def content_length(request: Request) -> int:
    """Return the length that a request announces for its body, or 0."""
    for name, value in request.headers:
        if name == "CONTENT-LENGTH":
            return int(value)
    return 0


def read_rest(request: Request, limit: int) -> None:
    """Read what the application left of a body, or end the connection where it is too much.

    Only the length of each part is kept, as a client that stalls makes the next one wait.
    """
    rest = 0
    try:
        while length := len(request.body.read(STEP)):
            rest += length
            if rest > limit:
                raise StopIteration
    except ParseException as error:  # a malformed chunk: nobody knows where the next request is
        raise StopIteration from error

"""The gunicorn worker: nobody who is slow, or asks without a pause, keeps others waiting.

It is gunicorn's GeventWorker with a `run` of its own. What it relies on beyond gunicorn's
documentation: AsyncWorker.handle serves one connection, and asks the listener only for its name;
it waits for a head within timeout_ctx, gives each request to handle_request, and what it cannot
read to handle_error; its handle_request raises StopIteration after an answer that ends the
connection, which is each answer once `alive` is false; a Request has headers, body and
force_close; the sockets are gevent's; a client needs the methods of Client and no others.
tests/test_worker.py fails where any of that is no longer so.
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
RATE = 64_000  # bytes: when so many of a body or an answer have moved, its client has a second more
PAUSE = 0.5  # seconds that a stopping worker goes on accepting, and waits for a further request
SWEEP = 0.1  # seconds from one look for connections whose time is over to the next
A_TURN = 1e-9  # seconds: sleep(0) would let nobody go first whose request has just come
MAX_HEAD = 2**16  # bytes; the load balancers of AWS and Azure pass on no longer one
MAX_PIECES = 256  # of a head: with each one that comes, gunicorn searches the whole head again
MAX_REST = 2**24  # bytes that are read and thrown away before a connection is closed
REST_STEP = 2**14  # bytes of these that are read at once: so many wait in gunicorn for the last one
SEND_STEP = 2**16  # bytes of an answer that are sent at once
SEND_BUFFER = 2**15  # bytes, doubled by Linux: the kernel's memory for an answer that nobody reads


def check_settings(arbiter: Any) -> None:
    """Stop the start, with a sentence, for settings with which Worker cannot serve.

    gunicorn calls it as its hook on_starting, with the settings of the command line, too.
    """
    if arbiter.cfg.workers < 1:
        raise SystemExit("WEB_CONCURRENCY or --workers has to be 1 or more.")
    if arbiter.cfg.is_ssl:
        raise SystemExit("TLS is left to a proxy: start without --certfile and --keyfile.")
    if "h2" in arbiter.cfg.http_protocols:
        raise SystemExit("HTTP/2 is left to a proxy: start without h2 in --http-protocols.")


class Worker(GeventWorker):  # type: ignore[misc]  # gevent and gunicorn have no types
    """A GeventWorker that ends every connection whose time is over.

    Each connection is in one of three dicts, which serve as sets in the order of entrance:
    `silent` until its first request has come, and when there will be no further one; `idle`
    between two requests; and `busy` from the end of a request's head to the end of its answer.
    """

    timeout_ctx = nullcontext  # gunicorn's own would drop a request that is just arriving

    def run(self) -> None:
        """Serve until the worker is told to stop, and then what is running and what is queued."""
        self.silent: dict[Client, None] = {}
        self.idle: dict[Client, None] = {}
        self.busy: dict[Client, None] = {}
        self.pool = Pool(self.worker_connections)
        self.accepts = True
        accepting = [gevent.spawn(self.accept, listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            self.end_overdue()
            if self.pool.full():
                self.make_room()  # which `accept` does, too, but not while it waits for a place
            gevent.sleep(SWEEP)
        gevent.sleep(PAUSE)  # a load balancer may not know yet that it is to send nobody any more
        self.accepts = False
        end = time.monotonic() + self.cfg.graceful_timeout
        while time.monotonic() < end:
            self.notify()
            self.end_unused()
            gevent.sleep(SWEEP)
            open_connections = len(self.silent) + len(self.idle) + len(self.busy)
            if open_connections == 0 and all(greenlet.dead for greenlet in accepting):
                return
        self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def accept(self, listener: Any) -> None:
        """Accept connections until the worker stops, and serve each in a greenlet of its own.

        In each turn of the event loop it accepts one, so that the other workers get their share of
        those that wait. With many open connections turns are long, and it accepts more: one for
        every 16 that are open.
        """
        listener.settimeout(SWEEP)  # to see in time that the worker is to stop
        while self.accepts:
            try:
                for _ in range(1 + len(self.pool) // 16):
                    connection, address = listener.accept()
                    # While a sixteenth is free, as a connection that ends keeps its place a moment.
                    if self.pool.free_count() <= self.pool.size // 16:
                        gevent.sleep(A_TURN)  # so that none is silent whose request has come
                        self.make_room()
                    self.pool.spawn(self.serve, Client(connection), address)  # waits for a place
            except TimeoutError:  # nobody has come
                continue
            except OSError:  # no file descriptor is free
                gevent.sleep(SWEEP)
            gevent.sleep(A_TURN)
        self.accept_queue(listener)
        listener.close()

    def accept_queue(self, listener: Any) -> None:
        """Serve the connections that wait in the kernel: closing the listener would reset them.

        Nothing here waits, not even for a place in the pool, so that nobody can come between the
        last accept and the close. They are in `silent` at once, as `run` ends when none is left.
        """
        listener.setblocking(False)
        with suppress(OSError):  # none waits any more, or no file descriptor is free
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
        try:
            # The client stands for the listener, too, which may be closed by now: gunicorn asks it
            # for its address, which becomes SERVER_NAME and SERVER_PORT.
            self.handle(client, client, address)
            self.put(client, self.silent, TIMEOUT)
            client.finish()
        finally:
            self.forget(client)

    def handle_request(self, name: Any, request: Request, client: "Client", address: Any) -> None:
        """Answer a request, and read the rest of its body, which stands before the next one."""
        self.put(client, self.busy, TIMEOUT)
        client.reads_head = False
        limit = self.wsgi.config["MAX_CONTENT_LENGTH"]
        if content_length(request) > limit:
            request.force_close()  # the application leaves it unread; the answer says "close"
        super().handle_request(name, request, client, address)
        # Not reached if the answer was the last one on its connection.
        client.flush()
        read_rest(request, limit)
        client.start_head()
        self.put(client, self.idle, self.cfg.keepalive)
        gevent.sleep(A_TURN)

    def handle_error(self, request: Any, client: "Client", address: Any, error: Exception) -> None:
        """Refuse what cannot be read as a request, so that a page of any origin sees why."""
        client.refuses = True
        if isinstance(error, HeadInPieces):
            self.log.warning("Invalid request from ip=%s: %s", address[0] if address else "", error)
            write_error(client, 408, "Request Timeout", str(error))
        else:
            super().handle_error(request, client, address, error)

    def put(self, client: "Client", clients: "dict[Client, None]", timeout: int) -> None:
        """Put a connection behind the others in one of the three dicts, for so many seconds."""
        self.forget(client)
        clients[client] = None
        client.begin_time(timeout)

    def forget(self, client: "Client") -> None:
        for clients in (self.silent, self.idle, self.busy):
            clients.pop(client, None)

    def make_room(self) -> None:
        """End the oldest silent connection, or else the oldest idle one.

        Its place is free when its greenlet has seen that.
        """
        for clients in (self.silent, self.idle):
            for client in clients:
                client.end()
                return

    def end_overdue(self) -> None:
        """End every connection whose time is over.

        Nothing here waits, so no other greenlet changes the dicts meanwhile.
        """
        now = time.monotonic()
        for clients in (self.silent, self.idle):
            for client in clients:
                if now > client.deadline:
                    client.end()
        for client in self.busy:
            if now > client.deadline:
                client.reset()

    def end_unused(self) -> None:
        """End every connection that has been without a request for a while.

        Since `alive` is false, each answer says "close": whoever has gone on asking is gone after
        that while. A request that arrives just now is still answered, and an answer still sent.
        """
        now = time.monotonic()
        for clients in (self.silent, self.idle):
            for client in clients:
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
        self.reads_head = True  # not a body, nor what is thrown away
        self.head_length = 0  # bytes of this head that have come, and perhaps the body's first ones
        self.head_pieces = 0
        self.held = b""  # the head of an answer, until its body comes
        self.refuses = False  # what is sent now is gunicorn's own refusal of a request

    def begin_time(self, timeout: int) -> None:
        self.since = time.monotonic()
        self.deadline = self.since + timeout

    def earn_time(self, moved: int) -> None:
        """Put the deadline off for bytes that moved, but to no later than TIMEOUT from now.

        So a client that stalls is let go after TIMEOUT, however much it has moved before.
        """
        self.deadline = min(self.deadline + moved / RATE, time.monotonic() + TIMEOUT)

    def start_head(self) -> None:
        """Note that what comes now is the head of a further request."""
        self.had_request = True
        self.reads_head = True
        self.head_length = 0
        self.head_pieces = 0

    def recv(self, size: int) -> bytes:
        """Receive bytes of a head, within its bounds, or of a body."""
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
        """Send at once what stands before an answer: that the client is to send its body (100)."""
        return self.socket.send(data)

    def sendall(self, data: bytes) -> None:
        """Send data, but hold the head of an answer until its body comes: one packet costs less.

        Whatever else ends like a head is held, too. Worker.handle_request and `finish` flush it.
        """
        if self.refuses:
            # Also where only some origins are allowed: the answer says nothing of the application.
            data = data.replace(b"\r\n", b"\r\nAccess-Control-Allow-Origin: *\r\n", 1)
        if not self.held and data.endswith(b"\r\n\r\n"):
            self.held = data
            return
        for start in range(0, len(data), SEND_STEP):  # in steps, as only what has moved earns time
            piece = self.held + data[start : start + SEND_STEP]
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
        """Do nothing. gunicorn calls this when it is done, and Worker.serve calls `finish` then."""

    def finish(self) -> None:
        """Close the connection after the client has, or its time is over, or it sends too much.

        Closing it with unread bytes would reset it, and the client would lose the answer.
        """
        self.reads_head = False
        rest = 0
        with suppress(OSError):
            self.flush()
            self.socket.shutdown(socket.SHUT_WR)
            while length := len(self.recv(REST_STEP)):
                rest += length
                if rest > MAX_REST:
                    break
        self.socket.close()

    def end(self) -> None:
        """End a connection without a request, but serve one that has just arrived on it."""
        if self.has_unread_answer():
            self.reset()  # else the kernel would keep the answer for minutes
        else:
            self.stop_reading()

    def has_unread_answer(self) -> bool:
        try:
            unsent = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))  # how many bytes
        except OSError:  # macOS counts them for terminals only
            return False
        return any(unsent)

    def stop_reading(self) -> None:
        """Let gunicorn read what has arrived, and then the end, after which it is done."""
        self.shutdown_beneath(socket.SHUT_RD)

    def reset(self) -> None:
        """End a connection at once, and drop what the client has not read of an answer.

        The greenlet that serves it now fails, and its close in `finish` sends the reset.
        """
        with suppress(OSError):  # the client may have ended it by now
            reset_at_close = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_at_close)
        self.shutdown_beneath(socket.SHUT_RDWR)

    def shutdown_beneath(self, how: int) -> None:
        """Shut the connection down through a second socket for it.

        On the first one, gevent would make the recv that waits fail, and lose what has arrived.
        """
        # The client may have ended it by now. Without a free file descriptor, the next look for
        # what is overdue does it.
        with suppress(OSError), self.socket.dup() as second:
            second.shutdown(how)


def content_length(request: Request) -> int:
    """Return the length that a request announces for its body, or 0."""
    for name, value in request.headers:
        if name == "CONTENT-LENGTH":
            return int(value)
    return 0


def read_rest(request: Request, limit: int) -> None:
    """Read what the application left of a body, or end the connection where it is too much.

    No variable keeps a part: it would stay in memory while a slow client lets the read wait.
    """
    rest = 0
    try:
        while length := len(request.body.read(REST_STEP)):
            rest += length
            if rest > limit:
                raise StopIteration
    except ParseException as error:  # a malformed chunk: nobody knows where the next request is
        raise StopIteration from error

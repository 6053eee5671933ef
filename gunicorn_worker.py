"""A gunicorn worker that does not let slow or greedy clients keep others waiting.

It serves any WSGI app. It is GeventWorker with another `run`, which gunicorn documents overriding,
and relies on six things that are not documented. tests/test_worker.py fails if one changes:

- AsyncWorker.handle uses the listener only for its address (Worker.serve).
- It receives a head inside timeout_ctx, and answers LimitRequestHeaders with 431 (Client.recv).
- It calls handle_request for each request; StopIteration closes the connection (handle_request).
- A response closes its connection if `alive` is false (Worker.run).
- request.body holds the unread body, and its reader limits the trailers (handle_request).
- gevent's sendall calls `send` (Client.send), and `_sock` is the real socket (Client.end).
"""

import math
import socket
import struct
from collections import Counter
from contextlib import nullcontext, suppress
from itertools import chain
from time import monotonic
from typing import Any

import gevent.socket
from gevent.pool import Group, Pool
from gunicorn.http.errors import LimitRequestHeaders, ParseException
from gunicorn.workers.ggevent import GeventWorker

HEAD_TIMEOUT = 10  # seconds for the first byte on a connection, then for a request's headers
READ_TIMEOUT = 60  # seconds for the body of a request
SEND_TIMEOUT = 60  # seconds for the response
STALL_TIMEOUT = 10  # seconds without progress in either
STOP_DELAY = 0.5  # seconds until a stopping worker closes idle connections
SWEEP = 0.1  # seconds between checks of the deadlines
LOG_INTERVAL = 10  # seconds between warnings of the same kind
YIELD = 1e-9  # seconds, to let other greenlets run; sleep(0) would pass over those with new data
MAX_HEAD = 2**16  # bytes; the load balancers of AWS and Azure forward no more
HEAD_RATE = 2**22  # bytes per second: how long the next part of a head may grow
MAX_REST = 2**22  # bytes of a body that are read after the response to keep the connection open
READ_SIZE = 2**16  # bytes of a body that are received at once
SEND_BUFFER = 2**15  # bytes, doubled by Linux: what the kernel stores of an unread response

# What a connection is used for. IDLE: none of the next request has arrived. LINGER: see close.
IDLE, HEAD, BODY, RESPONSE, LINGER = range(5)
EVICTED = "evicted for a new connection"
TIMED_OUT = {
    HEAD: f"request headers not complete within {HEAD_TIMEOUT} s",
    BODY: f"request body stalled for {STALL_TIMEOUT} s or not complete within {READ_TIMEOUT} s",
    RESPONSE: f"response stalled for {STALL_TIMEOUT} s or not read within {SEND_TIMEOUT} s",
}


def check_settings(arbiter: Any) -> None:
    """Raise SystemExit for settings that Worker does not support: gunicorn's hook on_starting."""
    if arbiter.cfg.workers < 1:
        raise SystemExit("WEB_CONCURRENCY or --workers must be 1 or more.")
    if arbiter.cfg.is_ssl or "h2" in arbiter.cfg.http_protocols:
        raise SystemExit("TLS and HTTP/2 need a proxy: remove --certfile and --http-protocols.")


class Worker(GeventWorker):  # type: ignore[misc]  # gevent and gunicorn have no types
    """A GeventWorker that enforces deadlines, and evicts the oldest connections for new ones.

    Each connection is in one of two dicts, used as ordered sets: in `busy` from the end of a
    request's headers to the end of the response, otherwise in `waiting`.
    """

    timeout_ctx = nullcontext  # gunicorn's would drop a request that is just arriving

    def run(self) -> None:
        """Serve until the worker is told to stop, then finish what is queued or in flight."""
        self.waiting: dict[Client, None] = {}
        self.busy: dict[Client, None] = {}
        self.dropped: Counter[str] = Counter()  # connections by reason, since the last warning
        self.next_warning = 0.0
        self.pool = Pool(self.worker_connections)
        accepting = Group()
        for listener in self.sockets:
            accepting.spawn(self.accept, listener)
        while self.alive:
            self.sweep()
            gevent.sleep(SWEEP)
        stopped = monotonic()
        while (accepting or self.pool) and monotonic() < stopped + self.cfg.graceful_timeout:
            if monotonic() > stopped + STOP_DELAY:
                for client in self.waiting:
                    if client.phase in (IDLE, LINGER):
                        client.end()
            self.sweep()
            gevent.sleep(SWEEP)
        self.log_dropped()
        if self.pool:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def accept(self, listener: Any) -> None:
        """Serve each new connection in a greenlet, until the worker stops.

        An event-loop iteration accepts one connection, so that other workers get their share, and
        one more per 16 that are open, because these make iterations longer.
        """
        listener.settimeout(SWEEP)  # to notice that the worker stops
        while self.alive:
            try:
                for _ in range(1 + len(self.pool) // 16):
                    self.pool.spawn(self.serve, *listener.accept())  # waits for a free slot
            except TimeoutError:  # there is no new connection
                continue
            except OSError:  # there is no free file descriptor
                gevent.sleep(SWEEP)
            gevent.sleep(YIELD)
        listener.setblocking(False)
        with suppress(OSError):  # until the backlog is empty: close would reset its connections
            while True:
                self.pool.spawn(self.serve, *listener.accept())
        listener.close()

    def serve(self, accepted: Any, address: Any) -> None:
        """Serve a connection until it is closed."""
        if self.pool.free_count() <= self.pool.size // 16:
            gevent.sleep(YIELD)  # connections with a new request become busy
            self.evict()
        client = Client(fileno=accepted.detach())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        client.begin(IDLE, HEAD_TIMEOUT)
        self.waiting[client] = None
        if isinstance(address, tuple):  # not on a Unix socket
            address = (address[0].removeprefix("::ffff:"), address[1])
        try:
            self.handle(client, client, address)  # the listener may be closed by now
        finally:
            del self.waiting[client]

    def handle_request(self, name: Any, request: Any, client: "Client", address: Any) -> None:
        """Serve a request, and read the rest of its body, which precedes the next request."""
        del self.waiting[client]
        self.busy[client] = None
        client.begin(BODY, READ_TIMEOUT)
        client.deadline = math.inf  # until the app reads
        request.body.reader.limit_trailer_section = MAX_HEAD
        try:
            super().handle_request(name, request, client, address)
        finally:
            del self.busy[client]
            self.waiting[client] = None
        if client.ended:  # whoever pipelines requests would go on
            raise StopIteration
        client.begin(LINGER, READ_TIMEOUT)
        try:
            for _ in range(MAX_REST // READ_SIZE):
                if not request.body.read(READ_SIZE):
                    break
            else:
                raise StopIteration
        except ParseException as error:  # a malformed chunk
            raise StopIteration from error
        client.begin(IDLE, self.cfg.keepalive)
        gevent.sleep(YIELD)

    def sweep(self) -> None:
        """Tell the arbiter that the worker is alive, enforce the deadlines and log the drops."""
        self.notify()
        now = monotonic()
        for client in chain(self.waiting, self.busy):
            if client.deadline < now:
                if client.phase in TIMED_OUT:
                    self.dropped[TIMED_OUT[client.phase]] += 1
                client.end()
        if self.pool.full():  # so `accept` waits, and `serve` cannot evict
            self.evict()
        if self.dropped and now > self.next_warning:
            self.log_dropped()
            self.next_warning = now + LOG_INTERVAL

    def log_dropped(self) -> None:
        for reason, count in self.dropped.items():
            self.log.warning("Closed %d connections: %s", count, reason)
        self.dropped.clear()

    def evict(self) -> None:
        """End the oldest waiting connection, or else the oldest request that awaits its client."""
        for client in chain(self.waiting, self.busy):
            if client.deadline < math.inf and not client.ended:
                self.dropped[EVICTED] += 1
                client.end()
                return


class Client(gevent.socket.socket):  # type: ignore[misc]
    """A client's connection, with a deadline for the pending recv or send, if there is one."""

    ended = False

    def begin(self, phase: int, timeout: float) -> None:
        self.phase = phase
        self.limit = self.deadline = monotonic() + timeout
        self.head_size = 0

    def recv(self, size: int) -> bytes:
        """Receive a part of a request's head, within its limits, or of its body."""
        if self.phase in (IDLE, HEAD):
            return self.recv_head(size)
        if self.phase == RESPONSE:  # it was only 100 Continue, or the app reads while it sends
            self.begin(BODY, READ_TIMEOUT)
        self.deadline = min(self.limit, monotonic() + STALL_TIMEOUT)
        data = super().recv(min(size, READ_SIZE))
        self.deadline = math.inf
        gevent.sleep(YIELD)
        return data

    def recv_head(self, size: int) -> bytes:
        """Receive a part of a head, or raise LimitRequestHeaders if it is too long.

        gunicorn searches the whole head again after each part, so the longer the head already is,
        the more time the next part gets to grow.
        """
        if self.head_size == MAX_HEAD:
            raise LimitRequestHeaders(f"the head is longer than {MAX_HEAD} bytes")
        if self.phase == HEAD:
            gevent.sleep(self.head_size / HEAD_RATE)
        data = super().recv(min(size, MAX_HEAD - self.head_size))
        if self.phase == IDLE:
            self.begin(HEAD, HEAD_TIMEOUT)
        self.head_size += len(data)
        return data

    def send(self, *args: Any, **kwargs: Any) -> int:
        """Send what the kernel's buffer has room for, waiting until it has some."""
        if self.phase != RESPONSE:
            self.begin(RESPONSE, SEND_TIMEOUT)
        self.deadline = min(self.limit, monotonic() + STALL_TIMEOUT)
        sent = super().send(*args, **kwargs)
        self.deadline = math.inf
        return sent

    def close(self) -> None:
        """Read until the client closes the connection or times out, then close it.

        Closing with unread data would reset it and lose the response (RFC 9112, section 9.6).
        """
        self.begin(LINGER, READ_TIMEOUT)
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while self.recv(READ_SIZE):
                pass
        super().close()

    def end(self) -> None:
        """Make a pending or later recv and send find the connection closed.

        If it is idle, only for reading, so that a request that has just arrived is served. Else it
        is reset: the kernel would keep an unread response for minutes. Not by gevent's shutdown,
        which would abort a pending recv and lose its data.
        """
        self.ended = True
        self.deadline = math.inf
        with suppress(OSError):  # the client may have reset it
            if self.phase in (IDLE, LINGER):
                self._sock.shutdown(socket.SHUT_RD)
            else:
                reset_at_close = struct.pack("ii", 1, 0)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_at_close)
                self._sock.shutdown(socket.SHUT_RDWR)

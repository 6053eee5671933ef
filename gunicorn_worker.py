"""A gunicorn worker for WSGI apps that keeps slow or greedy clients from making others wait.

It is GeventWorker with its own `run`, which gunicorn lets subclasses override; TLS and HTTP/2 are
not supported. It also relies on undocumented behavior; tests/test_worker.py fails if this changes:

- `self.sockets` holds gevent sockets. A gevent socket's sendall calls its `send`; `_sock` is the
  real socket.
- AsyncWorker.handle uses its listener for the address only, and calls handle_request for each
  request. It calls recv inside timeout_ctx, and responds with 431 if recv raises
  LimitRequestHeaders.
- handle closes the connection after StopIteration. AsyncWorker.handle_request raises it after a
  request that began when `alive` was false, so that a stopping worker does not wait for another.
- request.body.read returns what the app left unread. A chunked body's reader has the attribute
  limit_trailer_section; setting it on other readers has no effect.
"""

import errno
import math
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from time import monotonic
from typing import Any

from gevent import sleep, socket, spawn
from gevent.pool import Group, Pool
from gunicorn.http.errors import LimitRequestHeaders, ParseException
from gunicorn.workers.ggevent import GeventWorker

# The phases of a connection. IDLE: nothing has been received since the last request, if any.
# DRAIN: the response is sent, and what the client still sends is discarded.
IDLE, HEAD, BODY, RESPONSE, DRAIN = range(5)
IN_FLIGHT = (BODY, RESPONSE)

HEAD_TIMEOUT = 10  # seconds for a new connection to send something, then for a request's headers
READ_TIMEOUT = 60  # seconds spent waiting in BODY or DRAIN: enough for 2 MiB at 35 kB/s
SEND_TIMEOUT = 60  # seconds spent waiting in RESPONSE
STALL_TIMEOUT = 10  # seconds without progress in BODY, RESPONSE or DRAIN
STOP_DELAY = 0.5  # seconds before a stopping worker drops IDLE and DRAIN clients
SWEEP = 0.1  # seconds between checks of the deadlines
EVICTION = 0.002  # seconds for an evicted client to free its slot, before another one is evicted
LOG_INTERVAL = 10  # seconds between rounds of warnings
YIELD = 1e-9  # seconds, to let other greenlets run: sleep(0) would skip those waiting for I/O
MAX_HEAD = 2**16  # bytes of request headers; AWS and Azure load balancers forward no more
HEAD_RATE = 2**22  # bytes per second: before each recv, pause for (size of headers so far) / this
MAX_UNREAD = 2**22  # bytes of a body; if the app leaves more unread, the connection is closed
READ_SIZE = 2**14  # bytes of a body per recv; with 64 KiB, stalled clients took twice the memory
# Bytes that the kernel buffers before send blocks; Linux doubles this. With 32 KiB (64 KiB after
# doubling), a loopback packet did not fit: sending 1 MB to a local proxy took 400 ms instead of 8.
SEND_BUFFER = 40 * 2**10
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # for SO_LINGER
TIMED_OUT = {  # in the other phases, a missed deadline is not logged
    HEAD: f"request headers not complete within {HEAD_TIMEOUT} s",
    BODY: f"request body stalled for {STALL_TIMEOUT} s or not complete within {READ_TIMEOUT} s",
    RESPONSE: f"response stalled for {STALL_TIMEOUT} s or not read within {SEND_TIMEOUT} s",
}


class Worker(GeventWorker):  # type: ignore[misc]  # gevent and gunicorn have no types
    """A GeventWorker that enforces deadlines, and evicts clients to make room for new ones."""

    timeout_ctx = nullcontext  # gunicorn's would drop a request that is just arriving

    def run(self) -> None:
        """Serve until the worker is told to stop, then finish what is in flight or queued."""
        self.clients: set[Client] = set()
        self.drop_counts: Counter[str] = Counter()  # connections since the last warning, by reason
        self.next_warning = 0.0
        self.pool = Pool(self.worker_connections)
        accepting = Group([spawn(self.accept, listener) for listener in self.sockets])
        while self.alive:
            self.sweep()  # takes SWEEP seconds
        stop = monotonic()
        while (accepting or self.pool) and monotonic() < stop + self.cfg.graceful_timeout:
            # Until STOP_DELAY has passed, a request or the rest of a body may be on its way.
            self.sweep(idle_too=monotonic() > stop + STOP_DELAY)
        self.log_drops()
        if self.pool:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def accept(self, listener: Any) -> None:
        """Serve each connection in a greenlet, until the worker stops and the backlog is empty."""
        while True:
            try:
                # One connection per event-loop iteration, so that other workers get their share,
                # plus one per 16 open ones, because more connections make iterations longer.
                for _ in range(1 + len(self.pool) // 16):
                    listener.settimeout(SWEEP if self.alive else 0)
                    accepted = listener.accept()
                    self.free_slot()
                    self.pool.spawn(self.serve, *accepted)
            except TimeoutError:  # no new connection
                continue
            except BlockingIOError:  # stopping, and no connection is left in the backlog
                break
            except OSError:  # usually no free file descriptor
                sleep(SWEEP)
            if self.alive:  # not when stopping: the backlog could refill during the pause
                sleep(YIELD)
        listener.close()

    def free_slot(self) -> None:
        """Wait for a free slot. Evicting takes time, so it starts before the last slot is taken."""
        if self.pool.free_count() <= self.pool.size // 16:
            # Let requests that have arrived start, because evict prefers clients without one.
            sleep(YIELD)
            self.evict()
        while not self.pool.wait_available(EVICTION):
            self.evict()

    def evict(self) -> None:
        """Drop the client longest in its phase, preferably one without a request in flight."""
        # Clients with an infinite deadline are waiting for the worker, or were just dropped.
        evictable = [client for client in self.clients if client.deadline < math.inf]
        if evictable:
            client = min(evictable, key=lambda client: (client.phase in IN_FLIGHT, client.began))
            client.drop()
            self.drop_counts["evicted for a new connection"] += 1

    def serve(self, connection: Any, address: Any) -> None:
        client = Client(fileno=connection.detach())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        client.begin(IDLE, HEAD_TIMEOUT)
        self.clients.add(client)
        if isinstance(address, tuple):  # not from a Unix socket
            # An IPv6 socket reports a client's IPv4 address with this prefix.
            address = (address[0].removeprefix("::ffff:"), address[1])
        try:
            # The client also stands in for the listener, which may be closed by now.
            self.handle(client, client, address)
        finally:
            self.clients.remove(client)

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:
        """Serve a request, then read the rest of its body, which precedes the next request."""
        client.begin(BODY, READ_TIMEOUT)
        request.body.reader.limit_trailer_section = MAX_HEAD  # gunicorn's is larger
        super().handle_request(listener_name, request, client, address)
        client.begin(DRAIN, READ_TIMEOUT)
        if not read_to_end(request.body):
            raise StopIteration  # what arrives next may belong to the body
        client.begin(IDLE, self.cfg.keepalive)
        # If the client pipelines, gunicorn may already have its next request, and so not call recv.
        # A client can be evicted only while the worker waits for it, so wait here briefly.
        client.wait(sleep, YIELD)
        if client.dropped:
            raise StopIteration

    def sweep(self, idle_too: bool = False) -> None:
        """Sleep, then drop clients whose deadline had passed before the sleep.

        If `idle_too`, drop IDLE and DRAIN clients as well.
        """
        self.notify()
        now = monotonic()
        sleep(SWEEP)  # if the process was paused, this lets greenlets receive what arrived
        sleep(YIELD)  # libev runs timers before sockets that became ready at the same time
        for client in self.clients:
            is_late = client.deadline < now
            if is_late and client.phase in TIMED_OUT:
                self.drop_counts[TIMED_OUT[client.phase]] += 1
            if is_late or (idle_too and client.phase in (IDLE, DRAIN)):
                client.drop()
        if self.drop_counts and now > self.next_warning:
            self.log_drops()
            self.next_warning = now + LOG_INTERVAL

    def log_drops(self) -> None:
        counts, self.drop_counts = self.drop_counts, Counter()
        for reason, count in counts.items():
            self.log.warning("Connections closed: %d (%s)", count, reason)


def read_to_end(body: Any) -> bool:
    """Read the rest of a body, and return whether it ends within about MAX_UNREAD bytes."""
    with suppress(ParseException):  # a malformed chunk or trailer
        for _ in range(MAX_UNREAD // READ_SIZE):
            if not body.read(READ_SIZE):
                return True
    return False


class Client(socket.socket):  # type: ignore[misc]
    """A client's connection. Its deadline is infinite unless the worker is waiting for it."""

    dropped = False  # set by `drop`
    deadline = math.inf

    def begin(self, phase: int, timeout: float) -> None:
        """Enter a phase, in which the worker waits for the client for up to `timeout` seconds."""
        self.phase = phase
        self.began = monotonic()
        self.time_left = timeout
        self.head_size = 0

    def wait(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation under a deadline, and deduct the time it took from time_left."""
        started = monotonic()
        stall = math.inf if self.phase in (IDLE, HEAD) else STALL_TIMEOUT
        self.deadline = started + min(self.time_left, stall)
        try:
            return operation(*args, **kwargs)
        finally:
            self.deadline = math.inf
            self.time_left -= monotonic() - started

    def recv(self, size: int) -> bytes:
        if self.phase in (IDLE, HEAD):
            return self.recv_head(size)
        if self.phase == RESPONSE:  # 100 Continue, or a part of the response, was sent first
            self.begin(BODY, READ_TIMEOUT)
        data = self.wait(super().recv, min(size, READ_SIZE))
        if self.dropped and not data:  # an app could take this for the end of the body
            raise ConnectionResetError(errno.ECONNRESET, "dropped by the worker")
        sleep(YIELD)  # a client that never pauses must not keep others waiting
        return data

    def recv_head(self, size: int) -> bytes:
        """Receive part of a request's headers, or raise LimitRequestHeaders.

        After each part, gunicorn searches everything received so far for the end of the headers,
        so pause in proportion to how much that is.
        """
        if self.head_size == MAX_HEAD:
            raise LimitRequestHeaders(f"the headers are longer than {MAX_HEAD} bytes")
        if self.head_size:
            self.wait(sleep, self.head_size / HEAD_RATE)
        data = self.wait(super().recv, min(size, MAX_HEAD - self.head_size))
        if self.phase == IDLE:
            self.begin(HEAD, HEAD_TIMEOUT)
        self.head_size += len(data)
        return data

    def send(self, *args: Any, **kwargs: Any) -> int:
        if self.phase != RESPONSE:
            self.begin(RESPONSE, SEND_TIMEOUT)
        return self.wait(super().send, *args, **kwargs)

    def close(self) -> None:
        """Unless the worker dropped the client, wait until the client closes the connection.

        Closing it with unread data would reset it and lose the response (RFC 9112, section 9.6).
        """
        if not self.dropped:
            self.begin(DRAIN, READ_TIMEOUT)
            with suppress(OSError):
                self.shutdown(socket.SHUT_WR)
                while self.recv(READ_SIZE):
                    # If data is always available, recv hardly waits, and the sleep at its end is
                    # not deducted from time_left. This one is, so a client that never stops sending
                    # runs out of time and is dropped.
                    self.wait(sleep, YIELD)
        super().close()

    def drop(self) -> None:
        """Make a pending recv return, or a pending send fail, so that the connection is closed.

        Connections with a request in flight are reset, because the kernel would keep an unread
        response for minutes. Others are not, because the kernel may still be delivering their last
        response, or holding a request that a pending recv has yet to return. gevent's own shutdown
        would abort that recv, and lose the request.
        """
        self.dropped = True
        self.deadline = math.inf
        with suppress(OSError):  # the client may have reset it
            if self.phase in IN_FLIGHT:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                self._sock.shutdown(socket.SHUT_RDWR)
            else:
                self._sock.shutdown(socket.SHUT_RD)

"""A gunicorn worker for any WSGI app, whose slow or greedy clients cannot keep others waiting.

It is GeventWorker with its own `run`, which gunicorn documents overriding. It also relies on six
things that are not documented; tests/test_worker.py fails if one of them changes:

- `sockets` are gevent's; AsyncWorker.handle only asks them for their address (Worker.serve).
- handle calls recv inside timeout_ctx, and responds 431 to LimitRequestHeaders (Client.recv_head).
- handle passes each request to handle_request, and closes the connection after StopIteration.
- Once `alive` is false, each response closes its connection (Worker.run).
- request.body is what the app left unread, and its reader limits the trailers (handle_request).
- gevent's sendall calls `send` (Client.send), and `_sock` is the real socket (Client.end).
"""

import math
import struct
from collections import Counter
from contextlib import nullcontext, suppress
from time import monotonic
from typing import Any

from gevent import sleep, socket
from gevent.pool import Group, Pool
from gunicorn.http.errors import LimitRequestHeaders, ParseException
from gunicorn.workers.ggevent import GeventWorker

HEAD_TIMEOUT = 10  # seconds until a new connection sends something, then for a request's headers
READ_TIMEOUT = 60  # seconds for a request's body; a larger body limit needs more
SEND_TIMEOUT = 60  # seconds for a response
STALL_TIMEOUT = 10  # seconds without progress in a body or response
STOP_DELAY = 0.5  # seconds until a stopping worker closes idle connections
SWEEP = 0.1  # seconds between two checks of the deadlines
LOG_INTERVAL = 10  # seconds between two warnings of a kind
YIELD = 1e-9  # seconds, to let other greenlets run: sleep(0) would pass over those with new data
MAX_HEAD = 2**16  # bytes of request headers; the load balancers of AWS and Azure forward no more
HEAD_RATE = 2**22  # bytes per second: how fast recv_head expects headers to arrive
MAX_REST = 2**22  # bytes of a body that are read if the app did not, to keep its connection open
READ_SIZE = 2**16  # bytes of a body per recv
SEND_BUFFER = 2**15  # bytes, doubled by Linux: what the kernel stores of an unread response

# The phases of a connection. IDLE: nothing of a request has arrived. LINGER: its response is sent.
IDLE, HEAD, BODY, RESPONSE, LINGER = range(5)
EVICTED = "evicted for a new connection"
TIMED_OUT = {
    HEAD: f"request headers not complete within {HEAD_TIMEOUT} s",
    BODY: f"request body stalled for {STALL_TIMEOUT} s or not complete within {READ_TIMEOUT} s",
    RESPONSE: f"response stalled for {STALL_TIMEOUT} s or not read within {SEND_TIMEOUT} s",
}


class Worker(GeventWorker):  # type: ignore[misc]  # gevent and gunicorn have no types
    """A GeventWorker that enforces deadlines, and evicts clients for new ones."""

    timeout_ctx = nullcontext  # gunicorn's would drop a request that is just arriving

    def run(self) -> None:
        """Serve until the worker is told to stop, then finish what is in flight or queued."""
        self.clients: set[Client] = set()
        self.dropped: Counter[str] = Counter()  # connections since the last warning, by reason
        self.next_warning = 0.0
        self.pool = Pool(self.worker_connections)
        accepting = Group()
        for listener in self.sockets:
            accepting.spawn(self.accept, listener)
        while self.alive:
            self.sweep()
            sleep(SWEEP)
        stopped = monotonic()
        while (accepting or self.pool) and monotonic() < stopped + self.cfg.graceful_timeout:
            self.sweep()
            sleep(SWEEP)
            if monotonic() > stopped + STOP_DELAY:
                for client in self.clients:
                    if client.phase in (IDLE, LINGER):
                        client.end()
        self.log_dropped()
        if self.pool:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def accept(self, listener: Any) -> None:
        """Serve each new connection in a greenlet of its own, until the worker stops.

        An event-loop iteration accepts one connection, so that other workers get their share, plus
        one per 16 that are open, because these make iterations longer.
        """
        listener.settimeout(SWEEP)  # to notice when the worker stops
        while self.alive:
            try:
                for _ in range(1 + len(self.pool) // 16):
                    self.pool.spawn(self.serve, *listener.accept())  # waits for a free slot
            except TimeoutError:  # no new connection
                continue
            except OSError:  # no free file descriptor
                sleep(SWEEP)
            sleep(YIELD)
        listener.setblocking(False)
        with suppress(OSError):  # until the backlog is empty: close would reset its connections
            while True:
                self.pool.spawn(self.serve, *listener.accept())
        listener.close()

    def serve(self, accepted: Any, address: Any) -> None:
        if self.pool.free_count() <= self.pool.size // 16:
            sleep(YIELD)  # clients whose request has arrived are no longer IDLE after this
            self.evict()
        client = Client(fileno=accepted.detach())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        client.begin(IDLE, HEAD_TIMEOUT)
        self.clients.add(client)
        if isinstance(address, tuple):  # not on a Unix socket
            # An IPv6 socket prefixes the addresses of IPv4 clients.
            address = (address[0].removeprefix("::ffff:"), address[1])
        try:
            self.handle(client, client, address)  # the listener may be closed by now
        finally:
            self.clients.remove(client)

    def handle_request(self, name: Any, request: Any, client: "Client", address: Any) -> None:
        """Serve a request, then read the rest of its body, which precedes the next request."""
        client.begin(BODY, READ_TIMEOUT)
        client.deadline = math.inf  # until the app reads or responds
        request.body.reader.limit_trailer_section = MAX_HEAD
        super().handle_request(name, request, client, address)
        if client.ended:  # even if it has pipelined another request
            raise StopIteration
        client.begin(LINGER, READ_TIMEOUT)
        try:
            for _ in range(MAX_REST // READ_SIZE):
                if not request.body.read(READ_SIZE):
                    break
            else:  # the body is longer
                raise StopIteration
        except ParseException as error:  # a malformed chunk
            raise StopIteration from error
        client.begin(IDLE, self.cfg.keepalive)
        sleep(YIELD)

    def sweep(self) -> None:
        """Enforce the deadlines and log the drops, without switching to another greenlet."""
        self.notify()
        now = monotonic()
        for client in self.clients:
            if client.deadline < now:
                if client.phase in TIMED_OUT:
                    self.dropped[TIMED_OUT[client.phase]] += 1
                client.end()
        if self.pool.full():  # `accept` waits for a slot, so `serve` does not evict
            self.evict()
        if self.dropped and now > self.next_warning:
            self.log_dropped()
            self.next_warning = now + LOG_INTERVAL

    def log_dropped(self) -> None:
        for reason, count in self.dropped.items():
            self.log.warning("Closed %d connections: %s", count, reason)
        self.dropped.clear()

    def evict(self) -> None:
        """End the client with the next deadline, preferably one without a request in flight.

        Clients without a deadline wait for the app, and are spared.
        """
        pending = [client for client in self.clients if client.deadline < math.inf]
        if pending:
            self.dropped[EVICTED] += 1
            min(pending, key=Client.eviction_order).end()


class Client(socket.socket):  # type: ignore[misc]
    """A client's connection, with a deadline for the pending recv or send, otherwise infinite."""

    ended = False

    def begin(self, phase: int, timeout: float) -> None:
        """Enter a phase, all of whose recvs or sends must end within `timeout` seconds."""
        self.phase = phase
        self.limit = self.deadline = monotonic() + timeout
        self.head_size = 0

    def eviction_order(self) -> tuple[bool, float]:
        in_flight = self.phase in (BODY, RESPONSE)
        return in_flight, self.deadline

    def recv(self, size: int) -> bytes:
        if self.phase in (IDLE, HEAD):
            return self.recv_head(size)
        if self.phase == RESPONSE:  # that was 100 Continue, or the app reads and sends in turn
            self.begin(BODY, READ_TIMEOUT)
        self.deadline = min(self.limit, monotonic() + STALL_TIMEOUT)
        size = min(size, READ_SIZE)
        data = super().recv(size)
        self.deadline = math.inf
        if len(data) == size:  # more may have arrived
            sleep(YIELD)
        return data

    def recv_head(self, size: int) -> bytes:
        """Receive a part of a request's headers, or raise LimitRequestHeaders.

        gunicorn searches all headers again after each part. So the longer they already are, the
        longer this waits for the next part to grow.
        """
        if self.head_size == MAX_HEAD:
            raise LimitRequestHeaders(f"the headers are longer than {MAX_HEAD} bytes")
        if self.phase == HEAD:
            sleep(self.head_size / HEAD_RATE)
        data = super().recv(min(size, MAX_HEAD - self.head_size))
        if self.phase == IDLE:
            self.begin(HEAD, HEAD_TIMEOUT)
        self.head_size += len(data)
        return data

    def send(self, *args: Any, **kwargs: Any) -> int:
        if self.phase != RESPONSE:
            self.begin(RESPONSE, SEND_TIMEOUT)
        self.deadline = min(self.limit, monotonic() + STALL_TIMEOUT)
        sent = super().send(*args, **kwargs)
        self.deadline = math.inf
        return sent

    def close(self) -> None:
        """Linger until the client closes the connection, or a deadline passes.

        Closing it with unread data would reset it and lose the response (RFC 9112, section 9.6).
        """
        self.begin(LINGER, READ_TIMEOUT)
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while self.recv(READ_SIZE):
                pass
        super().close()

    def end(self) -> None:
        """Let a pending recv or send return, after which the connection is closed.

        An idle connection is only shut down for reading, because a request that has just arrived is
        still served. Any other is reset: the kernel would store an unread response for minutes.
        gevent's shutdown would abort a pending recv, and lose what has arrived.
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

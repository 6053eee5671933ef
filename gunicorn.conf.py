"""How gunicorn serves run:app. gunicorn loads this file from the current directory by itself.

The figures were measured with two workers on two cores and 16 keep-alive connections.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()  # before all other imports, which would keep the blocking originals

import gc
import math
import os
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import joblib
from gevent.server import StreamServer
from gunicorn.http.message import Request
from gunicorn.util import close_graceful
from gunicorn.workers.ggevent import GeventWorker

bind = f"0.0.0.0:{os.environ.get('PORT', 3000)}"

# One worker for each CPU that affinity and the container's quota leave to this process.
workers = int(os.environ.get("WEB_CONCURRENCY", joblib.cpu_count()))

# Import once and fork: the workers share the memory, and a broken model stops the start.
preload_app = True

# The workers' heartbeats: on a disk, which may be slow or read-only, they could get one killed.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None

# It fails on a read-only disk, and two instances of one user would take each other's.
control_socket_disable = True

# A client has this many seconds for its headers, and as many for its body and the answer.
keepalive = 10

# TERM is over within five seconds, whatever the clients do.
graceful_timeout = 4

# Longer bodies, and chunked ones, are left unread, so their connections cannot go on.
MAX_UNREAD = 2**20


def when_ready(arbiter: Any) -> None:
    """Keep the garbage collector off what the workers share: 10 MB for each instead of 40."""
    gc.freeze()


def unread(request: Request) -> float:
    return getattr(request.body.reader, "length", math.inf)  # a chunked body has no length


class Listener(StreamServer):
    """Accepts connections for one worker."""

    max_accept = 1  # the next one is the other workers' as well

    def close(self) -> None:
        """Accept what is queued first: closing would reset it, up to 16 of 16 at each TERM."""
        if not self.closed:
            self.stop_accepting()
            while connection := self.do_read():
                self.do_handle(*connection)
            self.socket.close()
        super().close()


class Worker(GeventWorker):
    """A worker that slow clients cannot hold, nor busy ones, and that loses no request.

    gevent answers 5,600 requests a second, gthread 4,500, sync 3,900; and clients that stall
    cost it a greenlet each, where sync stands still with as many as it has workers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: set[socket.socket] = set()  # between two requests

    def server_class(
        self, listener: socket.socket, *, application: Any, spawn: Any, log: Any,
        handler_class: Any, environ: Any, **tls: Any,
    ) -> Listener:  # fmt: skip
        return Listener(listener, partial(self.handle, listener), spawn=spawn, **tls)

    def handle(self, listener: socket.socket, client: socket.socket, address: Any) -> None:
        self.waiting.add(client)
        # The listener is asked for its address, but may be closed by now: the client's is the same.
        super().handle(client, client, address)
        self.waiting.discard(client)

    def handle_request(
        self, listener_name: Any, request: Request, client: socket.socket, address: Any
    ) -> None:
        self.waiting.remove(client)
        if unread(request) > MAX_UNREAD:
            request.force_close()
        with gevent.Timeout(keepalive, False):
            try:
                super().handle_request(listener_name, request, client, address)
            except StopIteration:
                if unread(request):  # else the client's kernel drops the answer with a reset
                    close_graceful(client, timeout=2, max_drain=16 * MAX_UNREAD)
                raise
            request.body.read()  # what the application left, up to where the next request starts
            # Take turns: the 99th percentile is 7 ms, with 18 for sleep(0), which lets those go
            # first again that have not been through the event loop.
            gevent.sleep(1e-9)
            self.waiting.add(client)
            return
        raise StopIteration  # gunicorn's way to close a connection

    def handle_exit(self, *signal: Any) -> None:
        super().handle_exit(*signal)
        gevent.spawn_later(2, self.hang_up)

    def hang_up(self) -> None:
        """End the idle connections, but read what they have sent, which gevent's own would not."""
        for client in self.waiting:
            with suppress(OSError):
                client._sock.shutdown(socket.SHUT_RD)


worker_class = Worker

"""How gunicorn serves run:app. gunicorn loads this file from the current directory by itself."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()  # before all else: what is imported earlier keeps the blocking originals

import gc
import os
import resource
from typing import Any

import joblib

import settings

host, port = settings.all_interfaces(), settings.port()
bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
worker_class = "gunicorn_worker.Worker"
workers = int(os.environ.get("WEB_CONCURRENCY", joblib.cpu_count()))  # CPUs by affinity and quota
preload_app = True  # the workers share its memory, and a broken model stops the start
# gunicorn's control socket is a file: a read-only disk has no room for it, and all services of a
# user would have the same one.
control_socket_disable = True
# The file of a worker's heartbeat: on a slow disk it could come too late, and on a read-only one
# it cannot be.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# Seconds that a connection lives between two requests: longer than in a load balancer, which could
# otherwise send a request just when the connection ends. AWS has 60, nginx 60 and Heroku 90.
keepalive = 95
# Seconds in which a stopping worker finishes its requests. After SIGHUP, the arbiter waits as long
# before it handles SIGTERM: 2 + 2, and 1 for the rest, are the 5 seconds that README promises.
graceful_timeout = 2
# Each connection needs a file descriptor, and a worker 11 more.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 32)
limit_request_field_size = 2**16
limit_request_line = 0
limit_request_fields = 2**8
forwarder_headers = ""  # else SCRIPT_NAME from 127.0.0.1 counts, which a proxy may forward


def on_starting(arbiter: Any) -> None:
    """Stop the startup with a one-line error for settings that the worker does not support."""
    if arbiter.cfg.workers < 1:
        raise SystemExit("WEB_CONCURRENCY or --workers must be 1 or more.")
    if arbiter.cfg.is_ssl or "h2" in arbiter.cfg.http_protocols:
        raise SystemExit("TLS and HTTP/2 need a proxy: remove --certfile and --http-protocols.")


def when_ready(arbiter: Any) -> None:
    """Say where the page is, and freeze what the workers are going to share."""
    for address in arbiter.cfg.address:
        if isinstance(address, tuple):  # a host and a port, not the path of a Unix socket
            arbiter.log.info("The page: %s", settings.page(*address))
    gc.freeze()  # the garbage collector would copy 30 MB of it into each worker

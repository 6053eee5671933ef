"""How gunicorn serves run:app. gunicorn loads this file from the current directory by itself."""

import gc
import os
import resource
from typing import Any

import joblib
from gevent import monkey

monkey.patch_all()  # before the application is imported, which would keep the blocking originals

import settings  # noqa: E402
import worker  # noqa: E402

host, port = settings.all_interfaces(), settings.port()
bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
worker_class = "worker.Worker"
workers = int(os.environ.get("WEB_CONCURRENCY", joblib.cpu_count()))  # CPUs by affinity and quota
preload_app = True  # the workers share its memory, and a broken model stops the start
control_socket_disable = True  # it fails on a read-only disk, and a user's instances share one
# For the workers' heartbeats: a disk may be slow or read-only, which could get one killed.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# Seconds that a connection lives between two requests: longer than a load balancer keeps it, which
# would send the next one just when it ends. AWS keeps it for 60, nginx 60, Heroku 90.
keepalive = 95
graceful_timeout = 2  # so that TERM is over in five, also while HUP waits as long as this
# A file descriptor each. When they are nearly used up, the oldest silent or idle one ends.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 32)
forwarder_headers = ""  # else SCRIPT_NAME from 127.0.0.1 counts, which a proxy may forward
sendfile = False  # it would go past worker.Client
on_starting = worker.check_settings


def when_ready(arbiter: Any) -> None:
    """Say where the page is, and freeze what the workers are going to share."""
    for address in arbiter.cfg.address:
        if isinstance(address, tuple):  # not the path of a Unix socket
            page = settings.page("localhost" if address[0] == host else address[0], address[1])
            arbiter.log.info("The page: %s", page)
    gc.freeze()  # the garbage collector would copy 30 MB of it into each worker

"""How gunicorn serves run:app. gunicorn loads this file from the current directory by itself."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()  # before all other imports, which would keep the blocking originals

import gc
import os
import resource
from typing import Any

import joblib

bind = f"0.0.0.0:{os.environ.get('PORT', 3000)}"
worker_class = "worker.Worker"

# One worker for each CPU that affinity and the container's quota leave to this process.
workers = int(os.environ.get("WEB_CONCURRENCY", joblib.cpu_count()))

# Import once and fork: the workers share the memory, and a broken model stops the start.
preload_app = True

# The workers' heartbeats: on a disk, which may be slow or read-only, they could get one killed.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# It fails on a read-only disk, and two instances of one user would take each other's.
control_socket_disable = True

# A client has this many seconds for its head, and as many for its body and the answer.
keepalive = 10

# TERM is over within five seconds, whatever the clients do, also while HUP waits as long as this.
graceful_timeout = 2

# A file descriptor each. When they are nearly used up, the oldest idle connection ends,
# one without any request before the others.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 32)

# Chrome sends 17 fields, and two proxies add a dozen; cookies may take 3 KB. gunicorn keeps a
# head of up to the product, 100 kB, and scans all of it again with each piece that arrives.
limit_request_fields = 32
limit_request_field_size = 3190

# Else a client at 127.0.0.1, such as a proxy that forwards all, may send the header SCRIPT_NAME.
forwarder_headers = ""


def when_ready(arbiter: Any) -> None:
    """Keep the garbage collector off what the workers share: 10 MB for each instead of 40."""
    gc.freeze()

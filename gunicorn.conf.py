"""How gunicorn serves run:app. gunicorn loads this file from the current directory by itself."""

import gc
import os
import resource

import joblib
from gevent import monkey

monkey.patch_all()  # before the application is imported, which would keep the blocking originals

bind = f"0.0.0.0:{os.environ.get('PORT', 3000)}"
worker_class = "worker.Worker"
workers = int(os.environ.get("WEB_CONCURRENCY", joblib.cpu_count()))  # CPUs by affinity and quota
preload_app = True  # the workers share its memory, and a broken model stops the start
control_socket_disable = True  # it fails on a read-only disk, and a user's instances share one
# For the workers' heartbeats: a disk may be slow or read-only, which could get one killed.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
keepalive = 10  # seconds that a client has for its head, and again for its body and the answer
graceful_timeout = 2  # so that TERM is over in five, also while HUP waits as long as this
# A file descriptor each. When they are nearly used up, the oldest silent or idle one ends.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 32)
# A head may have their product, 100 kB, which gunicorn scans again with each piece that arrives.
limit_request_fields = 32  # Chrome sends 17, and two proxies add a dozen
limit_request_field_size = 3190  # cookies may take 3 KB
forwarder_headers = ""  # else SCRIPT_NAME from 127.0.0.1 counts, which a proxy may forward


def when_ready(arbiter: object) -> None:
    """Keep the garbage collector off what the workers share: 10 MB for each instead of 40."""
    gc.freeze()

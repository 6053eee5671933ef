"""gunicorn's settings for run:app, loaded automatically in this folder and with -c elsewhere."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()  # first: modules imported earlier would keep the blocking originals

import gc
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import joblib

chdir = str(Path(__file__).parent)  # gunicorn imports run:app from here
sys.path.insert(0, chdir)

import gunicorn_worker
import settings

bind = settings.bind_addresses(settings.port())
worker_class = gunicorn_worker.Worker
workers = int(os.environ.get("WEB_CONCURRENCY", joblib.cpu_count()))  # CPUs by affinity and quota
preload_app = True  # workers share the app's memory, and a model that fails to load stops startup
# gunicorn's control socket is a file, which a read-only disk does not allow, and all services of
# one user would share its path.
control_socket_disable = True
# The folder of the workers' heartbeat files: on a slow disk a heartbeat could be late, and on a
# read-only disk the files could not exist.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# Seconds that an idle connection stays open: longer than a load balancer keeps it. Otherwise, the
# balancer could send a request just as it is closed. AWS uses 60, nginx 60 and Heroku 90.
keepalive = 95
# Seconds in which a stopping worker finishes its requests. The README promises an exit within 5
# seconds of SIGTERM: 2 for this, 2 more if a reload (SIGHUP) must finish first, and 1 for the rest.
graceful_timeout = 2
# Each connection needs a file descriptor, and a worker about 11 more; 32 leaves a margin. Once
# 15/16 of worker_connections are open, the worker evicts a client for each new one.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 32)
# The worker limits the request line and headers to 64 KiB together, so a single field may have all
# of it, and the line needs no limit of its own (0 means none). A short field takes 300 bytes of
# memory: 256 such fields and 64 KiB fit into the 160 KiB that kubernetes.yaml plans per connection.
limit_request_field_size = 2**16
limit_request_line = 0
limit_request_fields = 2**8
# Ignore headers for the scheme and the path: nothing here depends on the scheme, and only the URLs
# in messages depend on SCRIPT_NAME. gunicorn would reject contradictory scheme headers from a
# proxy, and obey a SCRIPT_NAME that a client sent through a proxy.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# Once enabled with --access-logfile: client, time, request, status, bytes, seconds, request ID.
access_log_format = '%(h)s %(t)s "%(r)s" %(s)s %(B)s %(L)s %({x-request-id}i)s'

PAUSE = 5  # seconds: if checks for hung workers are further apart, the processes were paused


def on_starting(arbiter: Any) -> None:
    """Fail with a one-line error for settings that the worker does not support."""
    if arbiter.cfg.workers < 1:
        raise SystemExit("WEB_CONCURRENCY or --workers must be 1 or more.")
    if arbiter.cfg.is_ssl or "h2" in arbiter.cfg.http_protocols:
        raise SystemExit("Leave TLS and HTTP/2 to a proxy: remove --certfile and --http-protocols.")


def when_ready(arbiter: Any) -> None:
    """Log which model is served and the demo page's URL, and freeze what the workers share."""
    import model  # run.py has loaded it by now

    arbiter.log.info("%s", model.describe())
    for address in arbiter.cfg.address:
        if isinstance(address, tuple):  # a host and a port, not the path of a Unix socket
            arbiter.log.info("Demo page: %s", settings.page_url(*address))
    gc.freeze()  # otherwise the garbage collector would copy 30 MB of memory into each worker
    survive_pauses(arbiter)


def survive_pauses(arbiter: Any) -> None:
    """Keep the arbiter from killing workers after all processes were paused.

    After `docker pause` or a suspended virtual machine, the workers' last heartbeats are older than
    `timeout`. A long gap between the arbiter's own checks reveals this. Renewing the heartbeats
    gives the workers time to send new ones.
    """
    kill_hung_workers = arbiter.murder_workers
    last_check = time.monotonic()

    def kill_hung_workers_unless_paused() -> None:
        nonlocal last_check
        now = time.monotonic()
        if now > last_check + PAUSE:
            for worker in arbiter.WORKERS.values():
                worker.tmp.notify()
        last_check = now
        kill_hung_workers()

    arbiter.murder_workers = kill_hung_workers_unless_paused

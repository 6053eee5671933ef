"""How gunicorn serves run:app; it loads this file from the current directory by itself."""

# ruff: noqa: E402, I001
from gevent import monkey

monkey.patch_all()  # first of all: what is imported before it would block the whole worker

import gc
import os
from pathlib import Path

import gevent
import joblib
from gunicorn.util import close_graceful
from gunicorn.workers.ggevent import GeventWorker

bind = f"0.0.0.0:{os.environ.get('PORT', 3000)}"
workers = int(os.environ.get("WEB_CONCURRENCY", joblib.cpu_count()))
preload_app = True
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None
keepalive = 10
graceful_timeout = 4


def when_ready(server):
    gc.freeze()


def pre_request(worker, req):
    if getattr(req.body.reader, "length", 2**20+1) > 2**20:
        req.force_close()


def post_request(worker, req, environ, resp):
    if req.must_close:
        close_graceful(environ["gunicorn.socket"], 2, 2**24)
    else:
        req.body.read()
        gevent.sleep(0)


class Worker(GeventWorker):
    def handle_request(self, *args):
        with gevent.Timeout(10, False):
            return super().handle_request(*args)
        raise StopIteration

worker_class = Worker

"""What the service costs, as ratios within one run: python -m tests.bench

Ratios of two programs are medians of several rounds, in which they take turns. The rows that put
load on a server need wrk (apt install wrk) and are skipped without it.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask, Response, jsonify, request
from flask_cors import CORS
from werkzeug.test import run_wsgi_app

from tests.samples import SAMPLE
from tests.service import ROOT, Service

(PICKLE,) = ROOT.glob("model/*.pgz")
ONE = json.dumps(SAMPLE).encode()
LENGTHS = np.random.default_rng(0).uniform(0, 8, (1_000, len(SAMPLE))).round(1).tolist()
THOUSAND = json.dumps([dict(zip(SAMPLE, lengths, strict=True)) for lengths in LENGTHS]).encode()


def empty() -> Flask:
    """Return the fastest Flask app with the same interface: it responds with a constant."""
    app = Flask("empty")
    app.get("/")(lambda: "hello!!")
    CORS(app)

    @app.post("/predict")
    def predict() -> Response:
        request.get_json()
        return jsonify({"return": "2"})

    return app


def tutorial() -> Flask:
    """Return the app of the tutorials: XGBoost predicts each flower, with all its threads."""
    app = Flask("tutorial")
    app.get("/")(lambda: "hello!!")
    CORS(app)
    with gzip.open(PICKLE) as file:
        classifier = pickle.load(file)

    @app.post("/predict")
    def predict() -> Response:
        flower = [[request.get_json()[name] for name in SAMPLE]]
        return jsonify({"return": str(classifier.predict(np.array(flower))[0])})

    return app


def medians(*calls: Callable[[], Any], rounds: int = 30, times: int = 1) -> list[float]:
    """Return the median seconds that each call takes, over rounds in which they take turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(times):
                call()
            taken.append((time.perf_counter() - start) / times)
    return [statistics.median(taken) for taken in seconds]


def post(app: Flask, body: bytes, path: str = "/predict") -> None:
    """Call the application like a WSGI server."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "3000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost:3000",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
    }
    answer, status, _ = run_wsgi_app(app, environ)
    with contextlib.closing(answer):  # type: ignore[type-var]  # a ClosingIterator
        b"".join(answer)
    assert status == "200 OK", status


def in_process() -> None:
    import model
    import run

    nothing = empty()
    bare, one = medians(lambda: post(nothing, ONE), lambda: post(run.app, ONE), times=200)
    print(f"{one / bare:8.2f}  time for one flower / for a constant, through the WSGI callable")
    one, classes, probabilities = medians(
        lambda: post(run.app, ONE),
        lambda: post(run.app, THOUSAND),
        lambda: post(run.app, THOUSAND, "/predict_proba"),
        times=20,
    )
    print(f"{classes / one:8.2f}  time for the classes of a thousand different flowers / of one")
    print(f"{probabilities / classes:8.2f}  time for their probabilities / for their classes")

    classifier = pickle.loads(gzip.decompress(PICKLE.read_bytes()))
    booster = model.booster
    for count, times in ((1, 200), (1_000, 20), (100_000, 1)):
        flowers = np.random.default_rng(0).uniform(0, 8, (count, len(SAMPLE))).astype(np.float32)
        predict: Callable[..., Any] = model.predict if count == 1 else model.predict_classes
        table, wrapped, inplace = medians(
            partial(predict, flowers),
            partial(classifier.predict, flowers),
            partial(booster.inplace_predict, flowers),
            rounds=15,
            times=times,
        )
        print(
            f"{wrapped / table:8.1f}  XGBClassifier.predict / the table, {count:,} flowers"
            f" (Booster.inplace_predict on one thread: {inplace / table:.1f})"
        )


def starts() -> None:
    def python(statement: str) -> None:
        subprocess.run([sys.executable, "-c", statement], cwd=ROOT, check=True)

    with contextlib.ExitStack() as services:  # which end after the last measurement
        xgboost, ours, both, answered = medians(
            lambda: python("import xgboost"),
            lambda: python("import model"),
            lambda: python("import xgboost, flask"),
            # PYTHONPATH="" does not hide scikit-learn, which the compared imports load as well.
            lambda: services.enter_context(Service(PYTHONPATH="")),
            rounds=7,
        )
    print(f"{ours / xgboost:8.2f}  import model / import xgboost")
    print(f"{answered / both:8.2f}  gunicorn until its first response / import xgboost, flask")


def wrk(
    service: Service, body: bytes, seconds: int = 5, connections: int = 16
) -> tuple[float, float, float]:
    """Return the requests per second, and the median and 99th percentile of latency in ms."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = 'POST'; wrk.body = '{body.decode()}'\n")
        script.write('wrk.headers["Content-Type"] = "application/json"\n')
        script.flush()
        url = f"http://127.0.0.1:{service.port}/predict"
        load = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=60s", "--latency"]
        printed = subprocess.run(
            ["wrk", *load, "-s", script.name, url], capture_output=True, text=True, check=True
        ).stdout
    assert "Non-2xx" not in printed and "Socket errors" not in printed, printed
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    latency = {
        percent: float(value) * units[unit]
        for percent, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)\s", printed)
    }
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", printed)
    return float(rate), latency["50"], latency["99"]


def under_load() -> None:
    gunicorn = (sys.executable, "-m", "gunicorn", "--workers", "2")
    stock = (*gunicorn, "-c", "/dev/null", "tests.bench:tutorial()")
    rounds = []
    with (
        Service(*gunicorn, "run:app") as ours,
        Service(*gunicorn, "tests.bench:empty()") as nothing,
    ):
        for _ in range(5):
            rounds.append((wrk(nothing, ONE), wrk(ours, ONE), wrk(ours, THOUSAND)))
        private = ours.private_memory()
    with Service(*stock, PYTHONPATH="") as theirs:
        slow = statistics.median(wrk(theirs, ONE, 10)[0] for _ in range(3))
    ratio = statistics.median(ours[0] / nothing[0] for nothing, ours, _ in rounds)
    rate = statistics.median(ours[0] for _, ours, _ in rounds)
    spread = statistics.median(ours[2] / ours[1] for _, ours, _ in rounds)
    flowers = statistics.median(thousand[0] for *_, thousand in rounds) / 1_000
    print(f"{ratio:8.2f}  requests per second / the empty app's, two workers, 16 connections")
    print(f"{spread:8.1f}  99th percentile of latency / median")
    print(f"{rate / slow:8.0f}  requests per second / the tutorials' app ({rate:.0f} / {slow:.0f})")
    print(f"{flowers:8.2f}  million flowers per second, a thousand per request")
    print(f"{max(private):8.1f}  MiB of private memory per worker")


def large_response() -> None:
    import run

    body = json.dumps(json.loads(THOUSAND) * 10).encode()
    with Service(WEB_CONCURRENCY="1") as service:
        direct, local = medians(
            lambda: post(run.app, body, "/predict_proba"),
            lambda: service.request("POST", "/predict_proba", body),
        )
    print(f"{local / direct:8.2f}  time for a response of 1 MB, over a local connection / without")


def dripping_head() -> None:
    """Send a head of 56 kB, then one byte of it per millisecond."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: %b\r\n" % (b"y" * 7_990) * 7 + b"X: "
    with Service(WEB_CONCURRENCY="1") as service, service.connect() as client:
        stat = Path(f"/proc/{service.workers()[0]}/stat")
        before = sum(map(int, stat.read_text().split()[13:15]))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(head)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            client.send(b"z")
            time.sleep(0.001)
        ticks = sum(map(int, stat.read_text().split()[13:15])) - before
    percent = 100 * ticks / os.sysconf("SC_CLK_TCK") / 8
    print(f"{percent:8.1f}  % of a CPU for request headers that arrive byte by byte")


def alongside_busy_clients(count: int) -> None:
    """Send requests over new connections, alongside keep-alive clients that never pause."""
    with Service(WEB_CONCURRENCY="1") as service, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(wrk, service, ONE, seconds=10, connections=count)
        time.sleep(2)
        (wait,) = medians(lambda: service.request("POST", "/predict", ONE), rounds=20)
        rate, _, _ = busy.result()
    print(f"{wait * rate / count:8.2f}  rounds of {count} busy clients until a new one is served")


if __name__ == "__main__":
    in_process()
    starts()
    large_response()
    dripping_head()
    if shutil.which("wrk"):
        alongside_busy_clients(400)
        alongside_busy_clients(900)
        under_load()

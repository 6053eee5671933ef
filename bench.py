"""What the service costs, as ratios within one run: python bench.py

Medians of several rounds, in which what is compared takes turns. The parts that put load on a
real server need wrk (apt install wrk) and are left out without it.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import re
import select
import shutil
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

from request_body import MAX_LENGTH
from tests.iris import FLOWER, ROOM
from tests.service import PICKLE, ROOT, Service

ONE = json.dumps(FLOWER).encode()
LENGTHS = np.random.default_rng(0).uniform(0, 8, (1_000, len(FLOWER))).round(1).tolist()
THOUSAND = json.dumps([dict(zip(FLOWER, lengths, strict=True)) for lengths in LENGTHS]).encode()


def empty() -> Flask:
    """The least that a Flask service for flowers can do: parse one and answer a constant."""
    app = Flask("empty")
    app.config["MAX_CONTENT_LENGTH"] = MAX_LENGTH  # for gunicorn_worker.py
    app.get("/")(lambda: "hello!!")
    CORS(app)

    @app.post("/predict")
    def predict() -> Response:
        request.get_json()
        return jsonify({"return": "2"})

    return app


def tutorial() -> Flask:
    """The service as the tutorials have it: XGBoost with all its threads for every flower."""
    app = Flask("tutorial")
    app.get("/")(lambda: "hello!!")
    CORS(app)
    with gzip.open(PICKLE) as file:
        classifier = pickle.load(file)

    @app.post("/predict")
    def predict() -> Response:
        flower = [[request.get_json()[name] for name in FLOWER]]
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
    """Call the application as a WSGI server does."""
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
    print(f"{one / bare:8.2f}  one flower / empty view, through the WSGI callable")
    one, classes, probabilities = medians(
        lambda: post(run.app, ONE),
        lambda: post(run.app, THOUSAND),
        lambda: post(run.app, THOUSAND, "/predict_proba"),
        times=20,
    )
    print(f"{classes / one:8.2f}  a thousand different flowers' classes / one flower's")
    print(f"{probabilities / classes:8.2f}  a thousand flowers' probabilities / their classes")

    classifier = pickle.loads(gzip.decompress(PICKLE.read_bytes()))
    booster = model.booster
    for count, times in ((1, 200), (1_000, 20), (100_000, 1)):
        flowers = np.random.default_rng(0).uniform(0, 8, (count, len(FLOWER))).astype(np.float32)
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

    def first_answer() -> None:
        service.append(Service(PYTHONPATH=""))  # with scikit-learn, like what it is compared with
        service[-1].__enter__()

    service: list[Service] = []
    xgboost, ours, both, answered = medians(
        lambda: python("import xgboost"),
        lambda: python("import model"),
        lambda: python("import xgboost, flask"),
        first_answer,
        rounds=7,
    )
    for started in service:
        started.__exit__()
    print(f"{ours / xgboost:8.2f}  import model / import xgboost")
    print(f"{answered / both:8.2f}  gunicorn from start to first answer / import xgboost, flask")


def wrk(
    service: Service, body: bytes, seconds: int = 5, connections: int = 16
) -> tuple[float, float, float]:
    """Return requests a second and the 50th and 99th percentile of latency in ms."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = 'POST'; wrk.body = '{body.decode()}'\n")
        script.write('wrk.headers["Content-Type"] = "application/json"\n')
        script.flush()
        url = f"http://127.0.0.1:{service.port}/predict"
        load = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name, url]
        printed = subprocess.run(["wrk", *load], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in printed and "Socket errors" not in printed, printed
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    latency = {
        percent: float(value) * units[unit]
        for percent, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)\n", printed)
    }
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", printed)
    return float(rate), latency["50"], latency["99"]


def under_load() -> None:
    gunicorn = (sys.executable, "-m", "gunicorn")
    stock = ("-c", "/dev/null", "--workers", "2", "bench:tutorial()")
    rounds = []
    with Service() as ours, Service(*gunicorn, "bench:empty()") as nothing:
        for _ in range(5):
            rounds.append((wrk(nothing, ONE), wrk(ours, ONE), wrk(ours, THOUSAND)))
        private = ours.private_memory()
    with Service(*gunicorn, *stock, PYTHONPATH="") as theirs:
        slow = statistics.median(wrk(theirs, ONE, 10)[0] for _ in range(3))
    ratio = statistics.median(ours[0] / nothing[0] for nothing, ours, _ in rounds)
    rate = statistics.median(ours[0] for _, ours, _ in rounds)
    spread = statistics.median(ours[2] / ours[1] for _, ours, _ in rounds)
    flowers = statistics.median(thousand[0] for *_, thousand in rounds) / 1_000
    print(f"{ratio:8.2f}  requests a second / empty view's, two workers and 16 connections")
    print(f"{spread:8.1f}  99th percentile / median of latency")
    print(f"{rate / slow:8.0f}  requests a second / the tutorials' ({rate:.0f} / {slow:.0f})")
    print(f"{flowers:8.2f}  million flowers a second, a thousand in each request")
    print(f"{max(private):8.1f}  MiB of memory of its own for each worker")


def beside_slow_clients() -> None:
    with Service() as service:
        slow = [service.connect() for _ in range(400)]
        for client in slow[:200]:
            client.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        time.sleep(1)
        seconds = []
        for _ in range(250):
            start = time.perf_counter()
            service.request("POST", "/predict", ONE)
            seconds.append(time.perf_counter() - start)
            if len(seconds) % 25 == 0:
                for client in slow:
                    client.send(b"x")
            time.sleep(0.02)
        for client in slow:
            client.close()
    print(f"{1000 * max(seconds):8.1f}  ms for the slowest of 250 requests beside 400 slow clients")


def head(length: int) -> bytes:
    """Return a request's head of so many bytes whose last field does not end."""
    fields = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    for index in range(length // 8_000):
        fields += b"X-%d: %b\r\n" % (index, b"y" * 7_990)
    return fields + b"X-last: "


def dripping_head() -> None:
    """Send a head of 56 kB, then a byte of it in each millisecond, and again when it is refused."""
    with Service(WEB_CONCURRENCY="1") as service:
        stat = Path(f"/proc/{service.workers()[0]}/stat")
        before = sum(map(int, stat.read_text().split()[13:15]))
        end = time.monotonic() + 8
        while time.monotonic() < end:
            with service.connect() as client:
                client.sendall(head(56_000))
                while time.monotonic() < end:
                    client.send(b"z")
                    answered, _, _ = select.select([client], [], [], 0.001)
                    if answered:
                        break
        ticks = sum(map(int, stat.read_text().split()[13:15])) - before
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    print(f"{seconds:8.1f}  s of CPU in 8 s for a head that drips, and comes back when refused")


def held_heads() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        (before,) = service.private_memory()
        clients = [service.connect() for _ in range(900)]
        for client in clients:
            client.sendall(head(64_000))
        time.sleep(3)  # until the worker has received all of it
        (after,) = service.private_memory()
        for client in clients:
            client.close()
    print(f"{after - before:8.1f}  MiB more in a worker with 900 clients that hold 64 kB of head")


def beside_busy_clients() -> None:
    """Ask over new connections, beside 400 keep-alive ones that never pause."""
    with Service(WEB_CONCURRENCY="2") as service, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(wrk, service, ONE, seconds=10, connections=400)
        time.sleep(1)
        (median,) = medians(lambda: service.request("POST", "/predict", ONE), rounds=100)
        busy.result()
    print(f"{1000 * median:8.1f}  ms for a new client (median) beside 400 busy ones")


def under_attack() -> None:
    """Let 500 clients ask for as much as a body has room for, and never read the answer."""
    flowers = json.dumps([FLOWER] * ROOM).encode()
    head = f"POST /predict_proba HTTP/1.1\r\nContent-Length: {len(flowers)}\r\n"
    sent = f"{head}Host: localhost\r\nContent-Type: application/json\r\n\r\n".encode() + flowers
    with Service(WEB_CONCURRENCY="2") as service, ThreadPoolExecutor(50) as pool:
        before = most = sum(service.private_memory())
        clients = [service.connect(timeout=5) for _ in range(500)]
        attack = [pool.submit(client.sendall, sent) for client in clients]
        while not all(client.done() for client in attack):
            service.request("POST", "/predict", ONE)
            most = max(most, sum(service.private_memory()))
        for client in clients:
            client.close()
    print(f"{most - before:8.1f}  MiB more in both workers under 500 clients that never read")


if __name__ == "__main__":
    in_process()
    starts()
    beside_slow_clients()
    under_attack()
    dripping_head()
    held_heads()
    if shutil.which("wrk"):
        beside_busy_clients()
        under_load()

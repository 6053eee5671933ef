"""What the worker promises against clients that mean harm, and what it relies on in gunicorn."""

import contextlib
import json
import select
import signal
import socket
import sys
import time
from collections import Counter
from http.client import HTTPConnection
from importlib.metadata import distribution
from pathlib import Path

import gunicorn
import pytest
from packaging.requirements import Requirement

from tests.service import FLOWER, JSON, ROOT, Load, Service
from tests.test_server import ANSWER, HEAD, LINUX, LONG, ONE

LARGE = json.dumps([FLOWER] * 10_000).encode()


def test_no_connection_is_served_more_often_than_another() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        counts: Counter[int] = Counter()
        clients = [service.connect() for _ in range(16)]
        for client in clients:
            client.sendall((LONG % len(ONE) + ONE) * 200)
        while sum(counts.values()) < 1_600:
            for client in select.select(clients, [], [])[0]:
                counts[client.fileno()] += client.recv(10_000).count(b"HTTP/1.1 ")
        assert len(counts) == 16
        assert max(counts.values()) <= 4 * min(counts.values())
        for client in clients:
            client.close()


@LINUX
def test_answers_that_nobody_reads_have_a_bound() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        (before,) = service.private_memory()
        clients = [service.connect() for _ in range(60)]
        for client in clients:
            client.sendall(
                LONG.replace(b"/predict", b"/predict_proba") % len(LARGE) + LARGE[: 2**19]
            )
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.send(LARGE[2**19 :])
        for _ in range(20):
            assert service.request("POST", "/predict", ONE)[2] == ANSWER
        status, headers, body = service.request("POST", "/predict", LARGE)
        if status != 200:
            assert (status, headers["Retry-After"]) == (503, "1")
            assert headers["Access-Control-Allow-Origin"] == "*"
            assert json.loads(body)["title"] == "Service Unavailable"
        assert service.private_memory()[0] < before + 75
        for client in clients:
            client.close()
        deadline = time.monotonic() + 10
        while service.request("POST", "/predict", LARGE)[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@LINUX
def test_an_answer_that_nobody_reads_ends_with_a_reset(service: Service) -> None:
    with service.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(LONG.replace(b"/predict", b"/predict_proba") % len(LARGE) + LARGE)
        poll = select.poll()
        poll.register(client, select.POLLERR)
        assert poll.poll(15_000), "the connection goes on"  # with an error, not with an end
        with pytest.raises(ConnectionResetError):
            while client.recv(65536):
                pass


def test_silent_connections_cost_no_busy_one_its_place() -> None:
    env = {"WEB_CONCURRENCY": "1", "GUNICORN_CMD_ARGS": "--worker-connections 50"}
    with Service(**env) as service, Load(service.port, clients=8) as load:
        silent = [service.connect() for _ in range(200)]
        for _ in range(20):
            assert service.request("POST", "/predict", ONE)[2] == ANSWER
        assert not load.failures
        for client in silent:
            client.close()
    assert load.answered > 50


def test_a_request_at_the_idle_deadline_is_answered(service: Service) -> None:
    clients = [HTTPConnection("127.0.0.1", service.port, timeout=5) for _ in range(100)]
    for client in clients:
        client.request("GET", "/")
        client.getresponse().read()
    time.sleep(9.4)
    answered = 0
    for client in clients:
        time.sleep(0.008)
        client.sock.setblocking(False)
        try:
            assert client.sock.recv(1) == b""  # it has ended, and the client knows
        except BlockingIOError:
            client.sock.settimeout(5)
            client.request("POST", "/predict", ONE, JSON)
            assert client.getresponse().read() == ANSWER
            answered += 1
        client.close()
    assert answered


def test_a_terminated_service_without_file_descriptors_loses_no_request() -> None:
    command = ("sh", "-c", 'ulimit -n 64; exec "$0" -m gunicorn run:app', sys.executable)
    with Service(*command, WEB_CONCURRENCY="1") as service:
        running = [service.connect() for _ in range(20)]
        for client in running:
            client.sendall(LONG % len(ONE) + ONE[:9])
        idle = [service.connect() for _ in range(300)]
        time.sleep(0.5)
        service.process.terminate()
        for client in running:
            client.sendall(ONE[9:])
        for client in running:
            with client:
                received = b""
                while not received.endswith(ANSWER):
                    part = client.recv(65536)
                    assert part
                    received += part
        assert service.process.wait(5) == 0
        for client in idle:
            client.close()


def test_terminating_after_a_reload_does_not_wait_for_those_who_stall() -> None:
    with Service(WEB_CONCURRENCY="2") as service:
        stalled = [service.connect() for _ in range(20)]
        for client in stalled:
            client.sendall(LONG % 1000)
        assert service.request("POST", "/predict", ONE)[2] == ANSWER
        service.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        service.process.terminate()
        assert service.process.wait(5) == 0
        for client in stalled:
            client.close()


def test_a_long_head_is_refused(service: Service) -> None:
    answer = service.send(HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(40)) + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_the_header_script_name_means_nothing(service: Service) -> None:
    headers = JSON | {"SCRIPT_NAME": "/x"}
    assert service.request("POST", "/predict", ONE, headers)[2] == ANSWER


def test_it_starts_with_nothing_but_its_requirements(tmp_path: Path) -> None:
    """Make an environment of links to what the image installs, and start the service in it."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line.split("#")[0]) for line in lines if "==" in line]
    wanted = [one for one in wanted if one.name not in ("pytest", "scikit-learn")]
    installed: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        installed.add(requirement.name.lower())
        for needed in map(Requirement, distribution(requirement.name).requires or []):
            extras = requirement.extras or {""}
            applies = not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in extras)
            if applies and needed.name.lower() not in installed:
                wanted.append(needed)
    site = Path(gunicorn.__file__).parents[1]
    tops = {file.parts[0] for name in installed for file in distribution(name).files or []}
    for top in tops - {".."}:
        (tmp_path / top).symlink_to(site / top)
    assert not (tmp_path / "pytest").exists() and not (tmp_path / "sklearn").exists()
    command = (sys.executable, "-S", "-m", "gunicorn", "run:app")
    with Service(*command, PYTHONPATH=str(tmp_path)) as service:
        assert service.request("POST", "/predict", ONE)[2] == ANSWER


def test_waitress_serves_it_too() -> None:
    program = "import os, run, waitress; waitress.serve(run.app, port=int(os.environ['PORT']))"
    with Service(sys.executable, "-c", program) as service:
        chunks = b"5\r\n" + ONE[:5] + b"\r\n%x\r\n" % (len(ONE) - 5) + ONE[5:] + b"\r\n0\r\n\r\n"
        sent = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        assert service.send(sent).endswith(ANSWER)
        assert service.request("POST", "/predict", b" " * (2**20 + 1))[0] == 413

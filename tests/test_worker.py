"""What the worker promises to ordinary clients and against those that mean harm."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from http.client import HTTPConnection
from importlib.metadata import distribution
from pathlib import Path

import gunicorn
import pytest
from packaging.requirements import Requirement

import settings
from tests import iris
from tests.service import ANSWER, JSON, ROOT, Load, Service, free_port
from tests.test_run import LIMIT
from tests.test_server import ASKED, HEAD, LINUX, LONG, ONE

LARGE = json.dumps([iris.FLOWER] * iris.ROOM).encode()


def test_no_connection_is_served_more_often_than_another() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        counts: Counter[int] = Counter()
        clients = [service.connect() for _ in range(16)]
        for client in clients:
            client.sendall(ASKED * 200)
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


def is_over(client: socket.socket) -> bool:
    """Return whether the service has ended the connection; fail where it has reset it."""
    return bool(select.select([client], [], [], 0)[0]) and client.recv(1) == b""


def test_an_idle_connection_lives_longer_than_a_silent_one_and_ends_without_loss() -> None:
    with Service(GUNICORN_CMD_ARGS="--keep-alive 13") as service:
        silent = service.connect()
        clients = [HTTPConnection("127.0.0.1", service.port, timeout=30) for _ in range(200)]
        for client in clients:
            client.request("GET", "/")
            client.getresponse().read()
        started = time.monotonic()
        time.sleep(11)
        answered = 0
        for client in clients[:-1]:  # for four seconds, in the middle of which they end
            time.sleep(0.02)
            if not is_over(client.sock):
                client.request("POST", "/predict", ONE, JSON)
                assert client.getresponse().read() == ANSWER
                answered += 1
            client.close()
        assert is_over(silent), "a connection without a request has more than ten seconds"
        assert answered, "no idle connection lives longer than a silent one"
        while not is_over(clients[-1].sock):
            assert time.monotonic() < started + 60, "an idle connection does not end"
            time.sleep(0.1)
        clients[-1].close()
        silent.close()


def test_a_first_head_has_ten_seconds_whatever_keep_alive_is() -> None:
    with Service(GUNICORN_CMD_ARGS="--keep-alive 1") as service, service.connect() as client:
        client.sendall(HEAD)
        time.sleep(2.5)
        client.sendall(b"Content-Length: %d\r\n\r\n" % len(ONE) + ONE)
        assert client.recv(65536).endswith(ANSWER)


@pytest.mark.parametrize("arguments", ["", "--keep-alive 0"])
def test_who_stalls_is_let_go_after_ten_seconds(arguments: str) -> None:
    stalled = {
        "without a request": b"",
        "in a head": HEAD,
        "in a body": LONG % 1000,
        # Of which each 64 kB would earn a second more, were there no bound.
        "at the end of a long body": LONG % LIMIT + b" " * (LIMIT - 1),
    }
    with Service(GUNICORN_CMD_ARGS=arguments) as service, contextlib.ExitStack() as clients:
        again = clients.enter_context(service.connect(timeout=60))
        again.sendall(ASKED)
        assert again.recv(65536).endswith(ANSWER)
        waiting = {"in a second head": again}
        again.sendall(HEAD)
        for kind, sent in stalled.items():
            waiting[kind] = clients.enter_context(service.connect(timeout=60))
            waiting[kind].sendall(sent)
        started = time.monotonic()
        for kind, client in waiting.items():
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(65536) == b"", kind
            if kind != "in a second head" or not arguments:  # without keep-alive, it ends at once
                assert 9 < time.monotonic() - started < 25, kind


SLOW = 75_000  # bytes a second, what a phone or a hotel may send


def test_a_body_that_comes_slowly_is_read(service: Service) -> None:
    body = LARGE.ljust(11 * SLOW)
    with service.connect() as client:
        client.sendall(LONG % len(body))
        for start in range(0, len(body), SLOW // 10):
            client.sendall(body[start : start + SLOW // 10])
            time.sleep(0.1)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_is_read_slowly_is_sent(service: Service) -> None:
    sent = LONG.replace(b"/predict", b"/predict_proba") % len(LARGE) + LARGE
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", service.port))
    with client:
        client.sendall(sent)
        received = b""
        while not received.endswith(b"}]}"):
            part = client.recv(SLOW // 10)
            assert part, "the answer is cut"
            received += part
            time.sleep(len(part) / SLOW)
    assert received.count(list(iris.PROBABILITIES)[-1].encode()) == iris.ROOM


AZURE = b"".join(b"X-Azure-%d: %b\r\n" % (index, b"a" * 90) for index in range(33))
CLOUDFRONT = b"".join(b"CloudFront-Viewer-%d: %b\r\n" % (i, b"c" * 60) for i in range(41))
ENTRA_ID = b"Authorization: Bearer %b\r\nX-MS-Client-Principal: %b\r\n" % (b"t" * 3300, b"p" * 3500)
COOKIES = b"".join(b"Cookie: session%d=%b\r\n" % (i, b"s" * 8_000) for i in range(7))


@pytest.mark.parametrize("fields", [AZURE, CLOUDFRONT, AZURE + ENTRA_ID, COOKIES])
@pytest.mark.parametrize("size", [2**20, 500])
def test_heads_as_clouds_send_them_are_read(service: Service, fields: bytes, size: int) -> None:
    sent = HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(ONE) + ONE
    with service.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # each head of a connection has the same bounds
            for start in range(0, len(sent), size):
                client.sendall(sent[start : start + size])
            assert client.recv(65536).endswith(ANSWER)


def fields_of(count: int, length: int) -> bytes:
    return b"".join(b"X-%d: %b\r\n" % (index, b"y" * length) for index in range(count))


@pytest.mark.parametrize("first", [b"", ASKED])
@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (fields_of(10, 8_000) + b"\r\n", b"431"),
        (fields_of(101, 10) + b"\r\n", b"431"),
        (fields_of(1, 9_000) + b"\r\n", b"431"),
        (b"no colon\r\n\r\n" + b"x" * 10**6, b"400"),
        (fields_of(100, 10_000) + b"x" * 10**6, b"431"),
    ],
)
def test_a_refused_head_has_an_answer_that_is_read(
    service: Service, first: bytes, rest: bytes, status: bytes
) -> None:
    sent = HEAD + rest
    for _ in range(20):  # a reset would lose the answer in most cases only
        with service.connect() as client:
            client.sendall(first)
            if first:
                assert client.recv(65536).endswith(ANSWER)
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            answer = client.makefile("rb").read()
        assert answer.split(b" ")[1] == status
        assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in answer


def test_a_head_in_very_many_pieces_is_refused(service: Service) -> None:
    with service.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(HEAD + b"X-Slow: ")
        answered = False
        for _ in range(2_000):
            client.sendall(b"z")
            answered = bool(select.select([client], [], [], 0.002)[0])
            if answered:
                break
        assert answered, "a head may come in 2,000 pieces"
        assert client.recv(65536).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@LINUX
def test_heads_that_nobody_ends_have_a_bound() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        assert service.request("POST", "/predict", ONE)[2] == ANSWER
        (before,) = service.private_memory()
        clients = [service.connect() for _ in range(200)]
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.send(HEAD + fields_of(100, 8_000))
        for _ in range(20):
            assert service.request("POST", "/predict", ONE)[2] == ANSWER
        assert service.private_memory()[0] < before + 200 * 0.2  # MiB for each of them
        for client in clients:
            client.close()


def test_an_answer_is_sent_in_one_piece(service: Service) -> None:
    with service.connect() as client:
        for _ in range(200):
            client.sendall(ASKED)
            assert client.recv(65536).endswith(ANSWER)
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")  # has no body to wait for
        assert client.recv(65536).endswith(b"\r\n\r\n")


def test_a_client_that_expects_to_be_told_to_continue_is_told(service: Service) -> None:
    with service.connect() as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(ONE))
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(ONE)
        assert client.recv(65536).endswith(ANSWER)


def test_a_longer_body_is_read_where_the_limit_is_higher() -> None:
    limit = 5 * 2**20
    with Service(FLASK_MAX_CONTENT_LENGTH=str(limit)) as service:
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        for _ in range(2):  # on one connection
            connection.request("POST", "/predict", ONE.ljust(limit), JSON)
            response = connection.getresponse()
            assert (response.status, response.headers["Connection"]) == (200, "keep-alive")
            assert response.read() == ANSWER
        connection.close()
        status, headers, _ = service.request("POST", "/predict", ONE.ljust(limit + 1))
        assert (status, headers["Connection"]) == (413, "close")


def test_chunks_that_the_application_leaves_do_not_become_a_request(service: Service) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = HEAD.replace(b"/predict", b"/nowhere") + b"Transfer-Encoding: chunked\r\n\r\n"
    short = service.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled))
    assert short.count(b"HTTP/1.1 404 ") == 1
    endless = service.send(head + b"fffffff\r\n" + smuggled.ljust(3 * LIMIT))
    assert endless.count(b"HTTP/1.1 ") == 1


def test_idle_connections_do_not_hold_up_a_worker_that_ends() -> None:
    arguments = "--max-requests 30 --graceful-timeout 100"
    with Service(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS=arguments) as service:
        idle = [HTTPConnection("127.0.0.1", service.port, timeout=30) for _ in range(3)]
        for client in idle:
            client.request("GET", "/")
            client.getresponse().read()
        started = time.monotonic()
        while service.logged().count("Booting worker") == 1:
            assert service.request("POST", "/predict", ONE)[2] == ANSWER
            assert time.monotonic() < started + 60, "the worker does not end"
        for client in idle:
            assert client.sock.recv(1) == b""
            client.close()
    assert "graceful timeout" not in service.logged()


def test_silent_connections_make_room_on_each_address() -> None:
    other = free_port()
    arguments = f"--worker-connections 50 --bind 127.0.0.1:{other} --bind 127.0.0.1:"
    port = free_port()
    with Service(port=port, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS=f"{arguments}{port}") as service:
        for silent_port, asked_port in [(other, port), (other, other), (port, other)]:
            silent = [socket.create_connection(("127.0.0.1", silent_port)) for _ in range(100)]
            connection = HTTPConnection("127.0.0.1", asked_port, timeout=9)  # before they end
            connection.request("POST", "/predict", ONE, JSON)
            assert connection.getresponse().read() == ANSWER
            connection.close()
            for client in silent:
                client.close()
        assert service.process.poll() is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--certfile tls.pem --keyfile tls.key",
            "TLS is left to a proxy: start without --certfile and --keyfile.",
        ),
    ],
)
def test_a_setting_that_cannot_be_served_stops_the_start(arguments: str, sentence: str) -> None:
    assert stopped(GUNICORN_CMD_ARGS=arguments) == sentence


def test_http_2_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "h2.py").write_text("__version__ = '4.3.0'")  # without it, gunicorn says so itself
    sentence = "HTTP/2 is left to a proxy: start without h2 in --http-protocols."
    env = {"PYTHONPATH": str(tmp_path), "GUNICORN_CMD_ARGS": "--http-protocols h2,h1"}
    assert stopped(**env) == sentence


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("WEB_CONCURRENCY", "0", "WEB_CONCURRENCY or --workers has to be 1 or more."),
        ("PORT", "70000", "PORT is '70000' and has to be a number from 1 to 65535."),
    ],
)
def test_a_value_that_cannot_be_stops_the_start(name: str, value: str, sentence: str) -> None:
    assert stopped(**{name: value}) == sentence


def stopped(**env: str) -> str:
    """Return the last line of what gunicorn says when it does not start."""
    command = [sys.executable, "-m", "gunicorn", "run:app"]
    env = {**os.environ, "PORT": str(free_port()), **env}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


IPV6 = pytest.mark.skipif(settings.wildcard_address() != "::", reason="needs IPv6")


@IPV6
@pytest.mark.parametrize("program", [[], [sys.executable, "run.py"]], ids=["gunicorn", "run.py"])
def test_it_listens_in_ipv4_and_ipv6(program: list[str]) -> None:
    with Service(*program, GUNICORN_CMD_ARGS="--access-logfile -") as service:
        for host in ("127.0.0.1", "::1", "localhost"):
            connection = HTTPConnection(host, service.port, timeout=30)
            connection.request("POST", "/predict", ONE, JSON)
            assert connection.getresponse().read() == ANSWER
            connection.close()
    assert "127.0.0.1 - - [" in service.logged()
    assert "::ffff:" not in service.logged()


def test_a_local_proxy_is_logged_and_trusted_as_in_ipv4() -> None:
    arguments = "--access-logfile - --access-logformat '<%(h)s %({wsgi.url_scheme}e)s>'"
    with Service(GUNICORN_CMD_ARGS=arguments) as service:
        headers = JSON | {"X-Forwarded-Proto": "https"}
        assert service.request("POST", "/predict", ONE, headers)[2] == ANSWER
    assert "<127.0.0.1 https>" in service.logged()


def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    path = tmp_path / "iris.sock"
    port = free_port()
    arguments = f"--bind unix:{path} --bind 127.0.0.1:{port}"
    with (
        Service(port=port, GUNICORN_CMD_ARGS=arguments),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(path))
        client.sendall(ASKED)
        assert client.recv(65536).endswith(ANSWER)


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
        assert service.request("POST", "/predict", b" " * (LIMIT + 1))[0] == 413

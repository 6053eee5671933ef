"""The faults of a network and of a night in production, over real sockets to `gunicorn run:app`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.metadata import distribution
from pathlib import Path

import gunicorn
import pytest
from packaging.requirements import Requirement

import settings
from tests import iris
from tests.iris import FLOWER
from tests.service import ANSWER, JSON, PICKLE, ROOT, Load, Service, free_port, read_response
from tests.test_run import LIMIT, NOT_JSON, WRONG

ONE = json.dumps(FLOWER).encode()
LARGE = json.dumps([FLOWER] * iris.ROOM).encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LONG = HEAD + b"Content-Length: %d\r\n\r\n"
ASKED = LONG % len(ONE) + ONE
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="/proc is not Linux's")
DEVELOPMENT = "import os, run; run.app.run(port=int(os.environ['PORT']))"


@pytest.fixture(scope="module", params=["gunicorn", "development"])
def server(request: pytest.FixtureRequest, service: Service) -> Iterator[Service]:
    """Either server that the application runs on."""
    if request.param == "gunicorn":
        yield service
    else:
        with Service(sys.executable, "-c", DEVELOPMENT) as server:
            yield server


def test_a_flower_has_its_class(server: Service) -> None:
    status, headers, body = server.request("POST", "/predict", ONE)
    assert (status, headers["Content-Type"], body) == (200, "application/json", ANSWER)
    assert headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:30]))
def test_what_is_not_json_is_refused(server: Service, body: bytes) -> None:
    status, headers, answer = server.request("POST", "/predict", body)
    assert (status, headers["Content-Type"]) == (400, "application/problem+json")
    assert b"not JSON in UTF-8" in answer
    assert server.request("POST", "/predict", ONE)[2] == ANSWER


@pytest.mark.parametrize(("body", "errors"), WRONG, ids=lambda case: repr(case[:30]))
def test_every_wrong_field_is_named(
    server: Service, body: bytes, errors: list[tuple[str, str]]
) -> None:
    status, _, answer = server.request("POST", "/predict", body)
    assert status == 422
    named = [(error["pointer"], error["detail"]) for error in json.loads(answer)["errors"]]
    assert named == errors


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + b"\r\n", 400),
        (LONG % (len(ONE) + 1) + ONE, 400),
        (LONG % 10**10, 413),
        (LONG % 10**10 + ONE * 1000, 413),
        (CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (LIMIT + 1, ONE.ljust(LIMIT + 1)), 413),
        (CHUNKED + b"fffffff\r\n" + ONE.ljust(LIMIT + 1), 413),
        (CHUNKED + b"ffff0\r\n" + ONE * 1_000, 400),
        (CHUNKED + b"5\r\nhel", 400),
        (CHUNKED + b"%x\r\n%s\r\n" % (len(ONE), ONE), 400),
        (CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n", 400),
        (CHUNKED + b"%x\r\n%sXX0\r\n\r\n" % (len(ONE), ONE), 400),
    ],
)
def test_a_body_of_another_length_is_refused(server: Service, sent: bytes, status: int) -> None:
    answer = server.send(sent)
    assert answer.split(b" ")[1] == str(status).encode()
    assert b"application/problem+json" in answer
    assert server.request("POST", "/predict", ONE)[2] == ANSWER


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n"


@pytest.mark.parametrize("trailers", [b"\r\n", b"X-Checksum: 5\r\n\r\n"])
@pytest.mark.parametrize(("length", "size"), [(0, 1), (0, 7), (0, 1000), (2**17, 1000)])
def test_a_chunked_body_is_served(
    service: Service, length: int, size: int, trailers: bytes
) -> None:
    sent = CHUNKED + chunked(ONE.ljust(length), size) + trailers
    with service.connect() as client:
        for _ in range(2):  # the connection goes on
            client.sendall(sent)
            answer = b""
            while not answer.endswith(ANSWER):
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_development_serves_a_chunked_body(server: Service) -> None:
    assert server.send(CHUNKED + chunked(ONE, 9) + b"\r\n").endswith(ANSWER)


def test_too_long_a_body_is_refused_before_it_is_sent(server: Service) -> None:
    with server.connect(timeout=5) as client:
        client.sendall(LONG % 10**10)
        assert b" 413 " in client.recv(65536)


def test_the_answer_reaches_a_client_that_sends_it_all_first(service: Service) -> None:
    assert service.request("POST", "/predict", b" " * 8_000_000)[0] == 413


def test_a_connection_goes_on_after_an_error(service: Service) -> None:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=5)
    local_ports = set()
    for method, path, body, headers, status in [
        ("POST", "/nowhere", b" " * 2**20, {}, 404),
        ("PUT", "/predict", ONE, JSON, 405),
        ("POST", "/predict", b" " * 2**20, {}, 415),
        ("POST", "/predict", b"{}", JSON, 422),
        ("POST", "/predict", ONE, JSON, 200),
    ]:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        local_ports.add(connection.sock.getsockname()[1])
    connection.close()
    assert len(local_ports) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"get / http/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\nhello",
        HEAD + b"Content-Length: 5x\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\nhello\n0\n\n",
        CHUNKED + b"5\r\nhello",
    ],
    ids=lambda sent: repr(sent[-30:]),
)
def test_malformed_http_is_refused_or_hung_up_on(service: Service, sent: bytes) -> None:
    answer = service.send(sent)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert service.request("POST", "/predict", ONE)[2] == ANSWER


def test_a_client_that_takes_a_few_seconds_is_served(service: Service) -> None:
    with service.connect() as client:
        for part in (HEAD, b"Content-Length: %d\r\n\r\n" % len(ONE), ONE[:9], ONE[9:]):
            time.sleep(1)
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read().endswith(ANSWER)


def count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def wait_for_workers(service: Service, expected: int, within: float) -> list[int]:
    deadline = time.monotonic() + within
    while len(service.workers()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = service.workers()
    assert len(workers) == expected
    return workers


@LINUX
def test_reloading_again_and_again_loses_no_request() -> None:
    with Service(WEB_CONCURRENCY="2") as service:
        before = wait_for_workers(service, 2, within=5)
        time.sleep(1)
        open_before = count(f"/proc/{service.process.pid}/fd")
        with Load(service.port) as load:
            for _ in range(5):
                service.process.send_signal(signal.SIGHUP)
                time.sleep(1)
        assert load.answered > 500
        assert not load.failures
        time.sleep(4)
        after = wait_for_workers(service, 2, within=5)
        assert not set(before) & set(after)
        assert count(f"/proc/{service.process.pid}/fd") == open_before


def test_sigterm_under_load_loses_no_request_that_was_accepted() -> None:
    with Service(WEB_CONCURRENCY="2") as service:
        with Load(service.port) as load:
            time.sleep(0.5)
            service.process.terminate()
            assert service.process.wait(5) == 0
        assert load.answered > 100
        # New connections are refused after the end, except in the few microseconds between a
        # worker's last accept and its close, in which the kernel resets them.
        kinds = [type(failure) for failure in load.failures]
        assert set(kinds) <= {ConnectionRefusedError, ConnectionResetError}
        assert kinds.count(ConnectionResetError) <= 2
        assert "ERROR" not in service.logged()


@LINUX
def test_a_killed_worker_is_replaced() -> None:
    with Service(WEB_CONCURRENCY="2") as service:
        victim, other = wait_for_workers(service, 2, within=5)
        with Load(service.port) as load:
            time.sleep(0.5)
            os.kill(victim, signal.SIGKILL)
            time.sleep(1.5)
            now = service.workers()
        assert len(now) == 2 and other in now and victim not in now
        assert len(load.failures) <= 16
        assert load.answered > 100


@LINUX
def test_workers_do_not_outlive_a_killed_master() -> None:
    with Service(WEB_CONCURRENCY="2") as service:
        workers = wait_for_workers(service, 2, within=5)
        service.process.kill()
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with socket.create_server(("127.0.0.1", service.port)):
            pass  # the port is free


@LINUX
def test_each_process_has_a_handful_of_threads() -> None:
    env = {"WEB_CONCURRENCY": "2"}
    assert "OMP_NUM_THREADS" not in os.environ
    with Service(**env) as service:
        workers = wait_for_workers(service, 2, within=5)
        for _ in range(10):
            assert service.request("POST", "/predict", ONE)[2] == ANSWER
        for pid in (service.process.pid, *workers):
            assert count(f"/proc/{pid}/task") <= 5


READ_ONLY = """
mount -o remount,bind,ro / && ! touch "$0" 2>/dev/null &&
exec env -u HOME unshare --user --map-user=12345 --map-group=12345 "$@"
"""


@LINUX
def test_it_serves_from_a_read_only_disk_as_anybody_without_a_home() -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"]).returncode:
        (pytest.fail if "CI" in os.environ else pytest.skip)("unshare cannot make namespaces here")
    gunicorn = [sys.executable, "-m", "gunicorn", "run:app"]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, __file__, *gunicorn]
    with Service(*command, WEB_CONCURRENCY="1") as service:
        assert service.request("POST", "/predict", ONE)[2] == ANSWER
    assert "Booting worker" in service.logged()
    assert "ERROR" not in service.logged() and "WARNING" not in service.logged()


def test_two_instances_are_independent() -> None:
    with Service() as one:
        with Service() as two:
            assert one.request("POST", "/predict", ONE)[2] == ANSWER
            assert two.request("POST", "/predict", ONE)[2] == ANSWER
        assert one.request("POST", "/predict", ONE)[2] == ANSWER
        assert one.process.poll() is None


@LINUX
def test_memory_does_not_grow() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        good = ASKED * 100
        bad = (LONG % 2 + b"{}") * 10

        def ask(rounds: int) -> None:
            with service.connect() as client:
                for _ in range(rounds):
                    client.sendall(good + bad)
                    received = b""
                    while received.count(b"HTTP/1.1 ") < 110 or not received.endswith(b"]}"):
                        received += client.recv(2**20)
                    assert received.count(b"HTTP/1.1 200 OK") == 100

        ask(20)
        (before,) = service.private_memory()
        ask(200)
        assert service.private_memory()[0] < before + 1


def test_a_damaged_model_stops_the_start(tmp_path: Path) -> None:
    for name in (
        "request_body.py",
        "gunicorn.conf.py",
        "model.py",
        "run.py",
        "settings.py",
        "gunicorn_worker.py",
    ):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "model", tmp_path / "model")
    path = tmp_path / "model" / PICKLE.name
    path.write_bytes(path.read_bytes()[:-1])
    command = [sys.executable, "-m", "gunicorn", "run:app"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0
    assert f"ModelError: {path} is damaged" in ended.stderr


@LINUX
def test_unread_large_responses_use_bounded_memory() -> None:
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


def test_probabilities_read_at_half_a_megabit_per_second_are_complete(service: Service) -> None:
    rate = 75_000  # bytes per second
    sent = LONG.replace(b"/predict", b"/predict_proba") % len(LARGE) + LARGE
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", service.port))
    with client:
        client.sendall(sent)
        received = b""
        while not received.endswith(b"}]}"):
            part = client.recv(rate // 10)
            assert part, "the answer is cut"
            received += part
            time.sleep(len(part) / rate)
    assert received.count(list(iris.PROBABILITIES)[-1].encode()) == iris.ROOM


AZURE = b"".join(b"X-Azure-%d: %b\r\n" % (index, b"a" * 90) for index in range(33))
CLOUDFRONT = b"".join(b"CloudFront-Viewer-%d: %b\r\n" % (i, b"c" * 60) for i in range(41))
ENTRA_ID = b"Authorization: Bearer %b\r\nX-MS-Client-Principal: %b\r\n" % (b"t" * 3300, b"p" * 3500)
COOKIES = b"".join(b"Cookie: session%d=%b\r\n" % (i, b"s" * 8_000) for i in range(7))


@pytest.mark.parametrize("fields", [AZURE, CLOUDFRONT, AZURE + ENTRA_ID, COOKIES])
@pytest.mark.parametrize("size", [2**20, 500])
def test_request_headers_of_cloud_proxies_are_served(
    service: Service, fields: bytes, size: int
) -> None:
    sent = HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(ONE) + ONE
    with service.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # each head of a connection has the same bounds
            for start in range(0, len(sent), size):
                client.sendall(sent[start : start + size])
            assert read_response(client) == (200, ANSWER)


def test_a_longer_body_is_served_if_the_limit_is_higher() -> None:
    limit = 5 * 2**20
    with Service(FLASK_MAX_CONTENT_LENGTH=str(limit)) as service:
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        for _ in range(2):  # on one connection
            connection.request("POST", "/predict", ONE.ljust(limit), JSON)
            response = connection.getresponse()
            assert (response.status, response.headers["Connection"]) == (200, "keep-alive")
            assert response.read() == ANSWER
        connection.close()
        assert service.request("POST", "/predict", ONE.ljust(limit + 1))[0] == 413


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("WEB_CONCURRENCY", "0", "WEB_CONCURRENCY or --workers must be 1 or more."),
        ("PORT", "70000", "PORT is '70000' and has to be a number from 1 to 65535."),
    ],
)
def test_an_invalid_variable_stops_the_startup(name: str, value: str, sentence: str) -> None:
    assert stopped(**{name: value}) == sentence


def stopped(**env: str) -> str:
    """Return the last line of what gunicorn says when it does not start."""
    command = [sys.executable, "-m", "gunicorn", "run:app"]
    env = {**os.environ, "PORT": str(free_port()), **env}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


IPV6 = pytest.mark.skipif(settings.all_interfaces() != "::", reason="needs IPv6")


@IPV6
@pytest.mark.parametrize("program", [[], [sys.executable, "run.py"]], ids=["gunicorn", "run.py"])
def test_every_server_listens_on_ipv4_and_ipv6(program: list[str]) -> None:
    with Service(*program, GUNICORN_CMD_ARGS="--access-logfile -") as service:
        for host in ("127.0.0.1", "::1", "localhost"):
            connection = HTTPConnection(host, service.port, timeout=30)
            connection.request("POST", "/predict", ONE, JSON)
            assert connection.getresponse().read() == ANSWER
            connection.close()
    assert "127.0.0.1 - - [" in service.logged()
    assert "::ffff:" not in service.logged()


def test_a_local_proxy_is_logged_and_trusted_by_its_ipv4_address() -> None:
    arguments = "--access-logfile - --access-logformat '<%(h)s %({wsgi.url_scheme}e)s>'"
    with Service(GUNICORN_CMD_ARGS=arguments) as service:
        headers = JSON | {"X-Forwarded-Proto": "https"}
        assert service.request("POST", "/predict", ONE, headers)[2] == ANSWER
    assert "<127.0.0.1 https>" in service.logged()


def test_a_script_name_header_is_ignored(service: Service) -> None:
    headers = JSON | {"SCRIPT_NAME": "/x"}
    assert service.request("POST", "/predict", ONE, headers)[2] == ANSWER


def test_the_service_starts_with_only_its_requirements(tmp_path: Path) -> None:
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


def test_waitress_serves_the_app() -> None:
    program = "import os, run, waitress; waitress.serve(run.app, port=int(os.environ['PORT']))"
    with Service(sys.executable, "-c", program) as service:
        chunks = b"5\r\n" + ONE[:5] + b"\r\n%x\r\n" % (len(ONE) - 5) + ONE[5:] + b"\r\n0\r\n\r\n"
        sent = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        assert service.send(sent).endswith(ANSWER)
        assert service.request("POST", "/predict", b" " * (LIMIT + 1))[0] == 413

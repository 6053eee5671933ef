"""The service over real sockets: HTTP, signals, settings and failures in production."""

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

import model
import run
from tests.samples import (
    BODY,
    CHUNKED_HEAD,
    CLASSES,
    HEAD,
    INVALID_JSON,
    INVALID_SAMPLES,
    JSON,
    REQUEST,
    RESPONSE,
    SAMPLE,
    SIZED_HEAD,
)
from tests.service import ROOT, Load, Service, free_port, read_response

LIMIT = run.app.config["MAX_CONTENT_LENGTH"]
N_LARGE = 900_000 // len(BODY)
LARGE = json.dumps([SAMPLE] * N_LARGE).encode()
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


def test_sample_returns_its_class(server: Service) -> None:
    status, headers, body = server.request("POST", "/predict", BODY)
    assert (status, headers["Content-Type"], body) == (200, "application/json", RESPONSE)
    assert headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON)
def test_invalid_json_returns_400(server: Service, body: bytes) -> None:
    status, headers, answer = server.request("POST", "/predict", body)
    assert (status, headers["Content-Type"]) == (400, "application/problem+json")
    assert b"not JSON in UTF-8" in answer
    assert server.request("POST", "/predict", BODY)[2] == RESPONSE


@pytest.mark.parametrize(("body", "errors"), INVALID_SAMPLES.values(), ids=INVALID_SAMPLES)
def test_invalid_samples_return_422_with_each_error(
    server: Service, body: bytes, errors: list[dict[str, str]]
) -> None:
    status, _, problem = server.request("POST", "/predict", body)
    assert status == 422
    assert json.loads(problem)["errors"] == errors


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + b"\r\n", 400),
        (SIZED_HEAD % (len(BODY) + 1) + BODY, 400),
        (SIZED_HEAD % 10**10, 413),
        (SIZED_HEAD % 10**10 + BODY * 1000, 413),
        (CHUNKED_HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (LIMIT + 1, BODY.ljust(LIMIT + 1)), 413),
        (CHUNKED_HEAD + b"fffffff\r\n" + BODY.ljust(LIMIT + 1), 413),
        (CHUNKED_HEAD + b"ffff0\r\n" + BODY * 1_000, 400),
        (CHUNKED_HEAD + b"5\r\nhel", 400),
        (CHUNKED_HEAD + b"%x\r\n%s\r\n" % (len(BODY), BODY), 400),
        (CHUNKED_HEAD + b"zz\r\nhello\r\n0\r\n\r\n", 400),
        (CHUNKED_HEAD + b"%x\r\n%sXX0\r\n\r\n" % (len(BODY), BODY), 400),
    ],
)
def test_wrong_body_length_returns_an_error(server: Service, sent: bytes, status: int) -> None:
    answer = server.send(sent)
    assert answer.split(b" ")[1] == str(status).encode()
    assert b"application/problem+json" in answer
    assert server.request("POST", "/predict", BODY)[2] == RESPONSE


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n"


@pytest.mark.parametrize("trailers", [b"\r\n", b"X-Checksum: 5\r\n\r\n"])
@pytest.mark.parametrize(("length", "size"), [(0, 1), (0, 7), (0, 1000), (2**17, 1000)])
def test_chunked_body_is_served(service: Service, length: int, size: int, trailers: bytes) -> None:
    sent = CHUNKED_HEAD + chunked(BODY.ljust(length), size) + trailers
    with service.connect() as client:
        for _ in range(2):  # the connection goes on
            client.sendall(sent)
            answer = b""
            while not answer.endswith(RESPONSE):
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_short_chunked_body_is_served(server: Service) -> None:
    assert server.send(CHUNKED_HEAD + chunked(BODY, 9) + b"\r\n").endswith(RESPONSE)


def test_body_over_the_limit_is_rejected_before_it_is_sent(server: Service) -> None:
    with server.connect(timeout=5) as client:
        client.sendall(SIZED_HEAD % 10**10)
        assert b" 413 " in client.recv(65536)


def test_client_that_sends_its_whole_body_first_reads_the_413(service: Service) -> None:
    assert service.request("POST", "/predict", b" " * 8_000_000)[0] == 413


def test_connection_stays_open_after_an_error(service: Service) -> None:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=5)
    local_ports = set()
    for method, path, body, headers, status in [
        ("POST", "/nowhere", b" " * 2**20, {}, 404),
        ("PUT", "/predict", BODY, JSON, 405),
        ("POST", "/predict", b" " * 2**20, {}, 415),
        ("POST", "/predict", b"{}", JSON, 422),
        ("POST", "/predict", BODY, JSON, 200),
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
        CHUNKED_HEAD + b"zz\r\nhello\r\n0\r\n\r\n",
        CHUNKED_HEAD + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED_HEAD + b"5\nhello\n0\n\n",
        CHUNKED_HEAD + b"5\r\nhello",
    ],
    ids=lambda sent: repr(sent[-30:]),
)
def test_malformed_http_is_rejected_or_disconnected(service: Service, sent: bytes) -> None:
    answer = service.send(sent)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert service.request("POST", "/predict", BODY)[2] == RESPONSE


START = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(START + b"Cookie: a=" + b"x" * 9_000 + b"\r\n\r\n", id="a long cookie"),
        pytest.param(START + b"X: " + b"x" * 65_000 + b"\r\n\r\n", id="one field"),
        pytest.param(START + (b"X: " + b"x" * 3_500 + b"\r\n") * 3 + b"\r\n", id="three fields"),
        pytest.param(START + b"X: 1\r\n" * 120 + b"\r\n", id="120 fields"),
        pytest.param(START + (b"X: " + b"x" * 240 + b"\r\n") * 255 + b"\r\n", id="256 fields"),
        pytest.param(
            START.replace(b"/", b"/?" + b"x" * 5_000, 1) + b"\r\n", id="a long request line"
        ),
        pytest.param(
            START.replace(b"/", b"/?" + b"x" * 65_000, 1) + b"\r\n", id="only a request line"
        ),
    ],
)
def test_request_headers_of_up_to_64_kib_and_256_fields_are_served(
    service: Service, head: bytes
) -> None:
    assert service.send(head).endswith(b"hello!!")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(START + b"X: " + b"x" * 70_000 + b"\r\n\r\n", id="one field"),
        pytest.param(START + (b"X: " + b"x" * 240 + b"\r\n") * 280 + b"\r\n", id="many fields"),
        pytest.param(START + b"X:\r\n" * 256 + b"\r\n", id="257 fields"),
        pytest.param(START.replace(b"/", b"/" + b"x" * 70_000, 1) + b"\r\n", id="request line"),
    ],
)
def test_request_headers_over_64_kib_or_256_fields_are_rejected(
    service: Service, head: bytes
) -> None:
    assert service.send(head).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n",
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
        b"X-Forwarded-Proto: http\r\nX-Forwarded-Protocol: ssl\r\nX-Forwarded-Ssl: on\r\n",
    ],
)
def test_scheme_headers_of_a_proxy_are_ignored(service: Service, headers: bytes) -> None:
    assert service.send(SIZED_HEAD.replace(HEAD, HEAD + headers) % len(BODY) + BODY).endswith(
        RESPONSE
    )
    preflight = b"OPTIONS /predict HTTP/1.1\r\nHost: localhost\r\nOrigin: https://a.example\r\n"
    preflight += b"Access-Control-Request-Method: POST\r\n" + headers + b"\r\n"
    assert b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in service.send(preflight)


def test_client_that_takes_a_few_seconds_is_served(service: Service) -> None:
    with service.connect() as client:
        for part in (HEAD, b"Content-Length: %d\r\n\r\n" % len(BODY), BODY[:9], BODY[9:]):
            time.sleep(1)
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read().endswith(RESPONSE)


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
def test_repeated_sighup_loses_no_request() -> None:
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


@LINUX
def test_upgrade_with_sigusr2_loses_no_request(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"  # the new master's is pid.2, until the old one has exited
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    command = (gunicorn, "--pid", str(pid_file), "run:app")
    with Service(*command, WEB_CONCURRENCY="2") as service, Load(service.port, 2) as load:
        wait_for_workers(service, 2, within=5)
        service.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + 30
        while service.logged().count("Booting worker") < 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        new = int((tmp_path / "pid.2").read_text())
        service.process.terminate()
        assert service.process.wait(5) == 0
        answered = load.answered
        time.sleep(1)
        load.stopped.set()
        os.kill(new, signal.SIGTERM)
    assert not load.failures
    assert load.answered > answered
    assert int(pid_file.read_text()) == new


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
def test_killed_worker_is_replaced() -> None:
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
def test_workers_exit_after_their_master_is_killed() -> None:
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
def test_processes_have_at_most_five_threads() -> None:
    env = {"WEB_CONCURRENCY": "2"}
    assert "OMP_NUM_THREADS" not in os.environ
    with Service(**env) as service:
        workers = wait_for_workers(service, 2, within=5)
        for _ in range(10):
            assert service.request("POST", "/predict", BODY)[2] == RESPONSE
        for pid in (service.process.pid, *workers):
            assert count(f"/proc/{pid}/task") <= 5


READ_ONLY = """
mount -o remount,bind,ro / && ! touch "$0" 2>/dev/null &&
exec env -u HOME unshare --user --map-user=12345 --map-group=12345 "$@"
"""


@LINUX
def test_service_runs_on_a_read_only_disk_as_any_user_without_a_home() -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"]).returncode:
        (pytest.fail if "CI" in os.environ else pytest.skip)("unshare cannot make namespaces here")
    gunicorn = [sys.executable, "-m", "gunicorn", "run:app"]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, __file__, *gunicorn]
    with Service(*command, WEB_CONCURRENCY="1") as service:
        assert service.request("POST", "/predict", BODY)[2] == RESPONSE
    assert "Booting worker" in service.logged()
    assert "ERROR" not in service.logged() and "WARNING" not in service.logged()


# Starts a server on port 3000 in a network namespace of its own, and prints the addresses on which
# it serves. The ioctl is SIOCSIFFLAGS, and turns the loopback interface on.
IN_NAMESPACE = """
import fcntl, http.client, pathlib, socket, struct, sys
from tests.service import Service
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))
pathlib.Path("/proc/sys/net/ipv6", sys.argv[1]).write_text("1")
with Service(*sys.argv[2:], port=3000) as service:
    for host in ("127.0.0.1", "::1"):
        try:
            http.client.HTTPConnection(host, 3000, timeout=5).request("GET", "/")
            print(host)
        except OSError:
            pass
"""


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "addresses"),
    [
        pytest.param("bindv6only", ["127.0.0.1", "::1"], id="IPv6 sockets as on Windows"),
        pytest.param("conf/all/disable_ipv6", ["127.0.0.1"], id="no IPv6"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("run.py",), ("-m", "gunicorn", "run:app"), ("-m", "waitress", "--listen=*:3000", "run:app")],
    ids=["run.py", "gunicorn", "waitress"],
)
def test_every_server_listens_on_ipv6_and_ipv4(
    command: tuple[str, ...], setting: str, addresses: list[str]
) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rn", "true"]).returncode:
        (pytest.fail if "CI" in os.environ else pytest.skip)("unshare cannot make namespaces here")
    python = sys.executable
    ended = subprocess.run(
        ["unshare", "-rn", python, "-c", IN_NAMESPACE, setting, python, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout.split() == addresses, ended.stderr


def test_two_services_are_independent() -> None:
    with Service() as one:
        with Service() as two:
            assert one.request("POST", "/predict", BODY)[2] == RESPONSE
            assert two.request("POST", "/predict", BODY)[2] == RESPONSE
        assert one.request("POST", "/predict", BODY)[2] == RESPONSE
        assert one.process.poll() is None


@LINUX
def test_memory_stays_constant_over_20000_requests() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        good = REQUEST * 100
        bad = (SIZED_HEAD % 2 + b"{}") * 10

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


GUNICORN = (sys.executable, "-m", "gunicorn")
CONFIGURATION = str(ROOT / "gunicorn.conf.py")
ELSEWHERE = ("sh", "-c", 'cd / && exec "$@"', "sh")


@pytest.mark.parametrize("options", [(), ("--chdir", str(ROOT))], ids=["alone", "with --chdir"])
def test_configuration_works_from_another_folder(options: tuple[str, ...]) -> None:
    command = (*ELSEWHERE, *GUNICORN, "-c", CONFIGURATION, *options, "run:app")
    with Service(*command) as service:
        assert service.request("POST", "/predict", BODY)[2] == RESPONSE
    assert "Using worker: Worker" in service.logged()
    assert "WARNING" not in service.logged()


def test_gunicorn_without_the_configuration_logs_the_cure() -> None:
    with Service(*ELSEWHERE, *GUNICORN, "--chdir", str(ROOT), "run:app", WEB_CONCURRENCY="1") as s:
        assert s.request("POST", "/predict", BODY)[2] == RESPONSE
    (warning,) = [line for line in s.logged().splitlines() if "WARNING" in line]
    assert warning.endswith(f"Start it with: gunicorn -c {CONFIGURATION} run:app")


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1"])
def test_log_shows_the_model_and_the_demo_page_url(host: str) -> None:
    port = free_port()
    with Service(*GUNICORN, "--bind", f"{host}:{port}", "run:app", port=port) as service:
        pass
    shown = host if host == "127.0.0.1" else "localhost"
    assert f"Demo page: http://{shown}:{port}/static/index.html\n" in service.logged()
    assert f"{model.describe()}\n" in service.logged()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "PORT must be a number from 1 to 65535, not 'http'."),
        (
            "FLASK_CORS_ORIGIN",
            "https://one.example",
            "FLASK_CORS_ORIGIN is not a setting. Did you mean FLASK_CORS_ORIGINS?",
        ),
        (
            "FLASK_CORS_ORIGINS",
            "one.example",
            "Each origin in FLASK_CORS_ORIGINS must be * or scheme://host[:port], "
            "not 'one.example'.",
        ),
    ],
)
@pytest.mark.parametrize("command", [(*GUNICORN, "run:app"), (sys.executable, "run.py")])
def test_invalid_setting_fails_at_startup_with_one_line(
    command: tuple[str, ...], name: str, value: str, message: str
) -> None:
    env = {**os.environ, name: value}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0
    lines = [line for line in ended.stderr.splitlines() if "[INFO]" not in line]
    assert lines == [message]


def test_rejected_large_requests_are_logged_with_their_number() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        reader = run.body_reader
        count = int(reader.budget / (reader.size_per_body * LIMIT))
        stalled = [service.connect() for _ in range(count)]
        for client in stalled:
            client.sendall(SIZED_HEAD % LIMIT + BODY)
        deadline = time.monotonic() + 30
        while service.request("POST", "/predict", BODY.ljust(LIMIT))[0] == 200:
            assert time.monotonic() < deadline  # until all of them have arrived
        for _ in range(5):
            status, headers, _ = service.request("POST", "/predict", BODY.ljust(LIMIT))
            assert (status, headers["Retry-After"]) == (503, "1")
        for client in stalled:
            client.close()
    (warning,) = [line for line in service.logged().splitlines() if "rejected" in line]
    assert warning.endswith(
        "WARNING in request_body: Too many large requests in progress: "
        "1 rejected with 503 since startup"
    )


def freeze(processes: list[int], seconds: float) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in processes:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@LINUX
def test_freeze_of_all_processes_loses_no_request() -> None:
    with Service(WEB_CONCURRENCY="2", GUNICORN_CMD_ARGS="--timeout 2") as service:
        workers = wait_for_workers(service, 2, within=5)
        with Load(service.port) as load:
            for _ in range(2):
                time.sleep(0.5)
                answered = load.answered
                freeze([service.process.pid, *workers], seconds=6)
            time.sleep(3)
        assert load.answered > answered
        assert not load.failures
        assert service.workers() == workers
    assert "TIMEOUT" not in service.logged()


@LINUX
def test_hung_worker_is_replaced() -> None:
    with Service(WEB_CONCURRENCY="2", GUNICORN_CMD_ARGS="--timeout 2") as service:
        hung, other = wait_for_workers(service, 2, within=5)
        os.kill(hung, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while hung in service.workers():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert other in wait_for_workers(service, 2, within=5)


def test_corrupted_model_fails_at_startup(tmp_path: Path) -> None:
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / "model", tmp_path / "model")
    path = tmp_path / "model" / model.PATH.name
    path.write_bytes(path.read_bytes()[:-1])
    command = [sys.executable, "-m", "gunicorn", "run:app"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0
    assert ended.stderr.startswith(f"{path} is corrupted: ")


@LINUX
def test_unread_large_responses_use_bounded_memory() -> None:
    with Service(WEB_CONCURRENCY="1") as service:
        (before,) = service.private_memory()
        clients = [service.connect() for _ in range(60)]
        for client in clients:
            client.sendall(
                SIZED_HEAD.replace(b"/predict", b"/predict_proba") % len(LARGE) + LARGE[: 2**19]
            )
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.send(LARGE[2**19 :])
        for _ in range(20):
            assert service.request("POST", "/predict", BODY)[2] == RESPONSE
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


@pytest.mark.slow
def test_probabilities_read_at_half_a_megabit_per_second_are_complete(service: Service) -> None:
    rate = 75_000  # bytes per second
    sent = SIZED_HEAD.replace(b"/predict", b"/predict_proba") % len(LARGE) + LARGE
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", service.port))
    with client:
        client.sendall(sent)
        received = b""
        while not received.endswith(b"}]}"):
            part = client.recv(rate // 10)
            assert part, "the response is incomplete"
            received += part
            time.sleep(len(part) / rate)
    assert received.count(b'"%b":' % CLASSES[-1].encode()) == N_LARGE


AZURE = b"".join(b"X-Azure-%d: %b\r\n" % (index, b"a" * 90) for index in range(33))
CLOUDFRONT = b"".join(b"CloudFront-Viewer-%d: %b\r\n" % (i, b"c" * 60) for i in range(41))
ENTRA_ID = b"Authorization: Bearer %b\r\nX-MS-Client-Principal: %b\r\n" % (b"t" * 3300, b"p" * 3500)
COOKIES = b"".join(b"Cookie: session%d=%b\r\n" % (i, b"s" * 8_000) for i in range(7))


@pytest.mark.parametrize("fields", [AZURE, CLOUDFRONT, AZURE + ENTRA_ID, COOKIES])
@pytest.mark.parametrize("size", [2**20, 500])
def test_request_headers_of_cloud_proxies_are_served(
    service: Service, fields: bytes, size: int
) -> None:
    sent = HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with service.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # each head of a connection has the same bounds
            for start in range(0, len(sent), size):
                client.sendall(sent[start : start + size])
            assert read_response(client) == (200, RESPONSE)


def test_longer_body_is_served_if_the_limit_is_higher() -> None:
    limit = 5 * 2**20
    with Service(FLASK_MAX_CONTENT_LENGTH=str(limit)) as service:
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        for _ in range(2):  # on one connection
            connection.request("POST", "/predict", BODY.ljust(limit), JSON)
            response = connection.getresponse()
            assert (response.status, response.headers["Connection"]) == (200, "keep-alive")
            assert response.read() == RESPONSE
        connection.close()
        assert service.request("POST", "/predict", BODY.ljust(limit + 1))[0] == 413


def test_script_name_header_is_ignored(service: Service) -> None:
    headers = JSON | {"SCRIPT_NAME": "/x"}
    assert service.request("POST", "/predict", BODY, headers)[2] == RESPONSE


def test_service_starts_with_only_its_requirements(tmp_path: Path) -> None:
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
        assert service.request("POST", "/predict", BODY)[2] == RESPONSE


def test_waitress_serves_the_app() -> None:
    program = "import os, run, waitress; waitress.serve(run.app, port=int(os.environ['PORT']))"
    with Service(sys.executable, "-c", program) as service:
        chunks = b"5\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n"
        sent = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        assert service.send(sent).endswith(RESPONSE)
        assert service.request("POST", "/predict", b" " * (LIMIT + 1))[0] == 413

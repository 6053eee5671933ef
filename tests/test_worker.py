"""The worker's promises to clients of any WSGI app, and its bounds against hostile clients."""

import contextlib
import json
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import gevent
import pytest

import gunicorn_worker
from tests.samples import SAMPLE
from tests.service import ROOT, Service, free_port, read_response

APP = "tests.wsgi_app:app"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"
POST = HEAD + b"Content-Length: %d\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UNREAD = POST.replace(b"/echo", b"/nowhere")  # a request whose body the app does not read
HELLO = (200, b"hello!!")
LARGE = 1_000_000  # bytes of the responses of /large and /slow-large
MAX_HEAD = 65_536  # bytes
LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="/proc is Linux's")


def serve(
    app: str = APP, *arguments: str, workers: int = 1, port: int | None = None, **constants: float
) -> Service:
    """Return a service of an app, with other values of constants of the worker's module."""
    assignments = "".join(f"gunicorn_worker.{name} = {constants[name]}; " for name in constants)
    program = f"import gunicorn_worker; {assignments}from gunicorn.app.wsgiapp import run; run()"
    command = [sys.executable, "-c", program, app, "--workers", str(workers), *arguments]
    return Service(*command, port=port)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve(workers=2) as service:
        yield service


def fields(count: int, length: int) -> bytes:
    return b"".join(b"X-%d: %b\r\n" % (index, b"y" * length) for index in range(count))


def connect_all(stack: contextlib.ExitStack, port: int, count: int, sent: bytes = b"") -> None:
    """Open connections that send something and then wait."""
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.send(sent)


def greet(client: socket.socket) -> None:
    """Send a request, and read the response."""
    client.sendall(GET)
    assert read_response(client) == HELLO


def connect_slow_reader(port: int) -> socket.socket:
    """Return a connection whose client's kernel receives little before it is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect(("127.0.0.1", port))
    return client


# Apps


@pytest.mark.parametrize(
    ("app", "path", "status"),
    [
        ("app", "/echo", 200),
        ("bare_flask()", "/echo", 200),
        ("tutorial()", "/predict", 200),
        ("behind_proxy()", "/predict", 422),
    ],
)
def test_any_wsgi_app_is_served(app: str, path: str, status: int) -> None:
    body = json.dumps(list(SAMPLE.values())).encode()
    with serve(f"tests.wsgi_app:{app}") as service:
        assert service.request("POST", path, body)[0] == status
        assert service.request("POST", "/nowhere", b" " * 2_000_000)[0] == 404
    assert "ERROR" not in service.logged()


# Fair shares


def test_pipelined_requests_of_several_clients_are_served_in_turns() -> None:
    with serve() as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(16)]
        for client in clients:
            client.sendall(GET * 200)
        counts: Counter[int] = Counter()
        while sum(counts.values()) < 1_600:
            for client in select.select(clients, [], [])[0]:
                counts[client.fileno()] += client.recv(10_000).count(b"hello!!")
        assert len(counts) == 16
        assert max(counts.values()) <= 4 * min(counts.values())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        HEAD,
        GET,
        GET.replace(b"/", b"/large", 1),
        GET * 10_000,
        POST % 1000,
        UNREAD % 1000,
    ],
    ids=["silent", "head", "idle", "unread", "pipelined", "body", "unread body"],
)
def test_new_connections_are_served_although_every_slot_is_taken(sent: bytes) -> None:
    ports = [free_port(), free_port()]
    binds = [f"--bind=127.0.0.1:{port}" for port in ports]
    arguments = ["--worker-connections=50", *binds]
    with serve(APP, *arguments, port=ports[0]) as service, contextlib.ExitStack() as stack:
        for port in ports:
            connect_all(stack, port, 200, sent)
            for asked in ports:
                assert_served_soon(asked)
    assert re.search(r"Connections closed: \d+ \(evicted for a new connection\)", service.logged())


def test_new_connection_is_served_although_hundreds_of_others_do_not_read_a_file() -> None:
    get = GET.replace(b"/", b"/static/index.html", 1)
    with serve("run:app", "--worker-connections=320") as service, contextlib.ExitStack() as stack:
        for _ in range(480):
            client = stack.enter_context(connect_slow_reader(service.port))
            client.sendall(get * 4)
        assert_served_soon(service.port)


def assert_served_soon(port: int) -> None:
    """Send a request over a new connection, in less time than it takes others to time out."""
    connection = HTTPConnection("127.0.0.1", port, timeout=8)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello!!"
    connection.close()


def test_oldest_idle_connection_is_evicted_before_one_that_has_sent_nothing_yet() -> None:
    with serve(APP, "--worker-connections=16") as service, contextlib.ExitStack() as stack:
        connect_all(stack, service.port, 20, GET)
        assert service.request("GET", "/")[0] == 200
        new = stack.enter_context(service.connect())
        for _ in range(10):
            client = stack.enter_context(service.connect())
            greet(client)
        greet(new)


def test_new_connection_evicts_only_one_client() -> None:
    with serve(APP, "--worker-connections=4") as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(4)]
        for client in clients:
            client.sendall(POST % 5 + b"he")
        time.sleep(0.5)
        assert service.request("GET", "/")[0] == 200
        for client in clients:
            with contextlib.suppress(ConnectionError):  # the one that was evicted
                client.sendall(b"llo")
        assert sum(map(is_served, clients)) == 3


def is_served(client: socket.socket) -> bool:
    try:
        return read_response(client) == (200, b"hello")
    except ConnectionError:
        return False


def test_body_cut_short_by_the_worker_is_not_taken_for_complete() -> None:
    """Without a service, because there this depends on microseconds."""
    accepted, peer = socket.socketpair()
    client = gunicorn_worker.Client(fileno=accepted.detach())
    with peer:
        client.begin(gunicorn_worker.IDLE, 1)
        client.drop()  # as if gunicorn had buffered the next request without the end of its body
        client.begin(gunicorn_worker.BODY, 1)
        with pytest.raises(ConnectionResetError):
            client.recv(5)
        client.close()


def test_client_whose_body_has_been_received_cannot_be_evicted() -> None:
    """Without a service, because there this depends on microseconds."""
    accepted, peer = socket.socketpair()
    client = gunicorn_worker.Client(fileno=accepted.detach())
    with peer:
        peer.sendall(b"hello")
        client.begin(gunicorn_worker.BODY, 1)
        deadlines: list[float] = []
        gevent.spawn(lambda: deadlines.append(client.deadline))
        assert client.recv(5) == b"hello"  # other greenlets run before it returns
        assert deadlines == [math.inf]
    client.close()


def test_full_worker_evicts_no_client_until_another_connects() -> None:
    with serve(APP, "--worker-connections=1") as service:
        connection = HTTPConnection("127.0.0.1", service.port, timeout=8)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello!!"
        first_socket = connection.sock
        time.sleep(1)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello!!"
        assert connection.sock is first_socket
        connection.close()


def test_time_for_a_body_begins_when_the_app_reads_it() -> None:
    with serve(APP, READ_TIMEOUT=2) as service, service.connect() as client:
        client.sendall(POST.replace(b"/echo", b"/slow-echo", 1) % 10 + b"01234")
        time.sleep(3.5)
        client.sendall(b"56789")
        assert read_response(client) == (200, b"0123456789")


def test_request_is_not_evicted_while_the_app_works() -> None:
    with serve(APP, "--worker-connections=1") as service, contextlib.ExitStack() as stack:
        client = stack.enter_context(service.connect())
        client.sendall(GET.replace(b"/", b"/slow", 1))
        time.sleep(0.2)
        connect_all(stack, service.port, 100)
        assert read_response(client) == (200, b"done")


# Deadlines


def test_stalled_clients_are_dropped_after_ten_seconds_and_counted_in_the_log() -> None:
    stalled = {
        "silent": b"",
        "head": HEAD,
        "second head": HEAD,
        "body": POST % 1000,
        "chunked body": CHUNKED + b"5\r\nhel",
        "unread body": UNREAD % 1000,
        "response": GET.replace(b"/", b"/large", 1) * 20,
    }
    with serve() as service, contextlib.ExitStack() as stack:
        clients = {
            kind: [stack.enter_context(service.connect()) for _ in "123"] for kind in stalled
        }
        for client in clients["second head"]:
            greet(client)
        for kind, sent in stalled.items():
            for client in clients[kind]:
                client.sendall(sent)
        time.sleep(9)
        for kind in clients.keys() - {"response"}:  # is_closed would read it: that is progress
            for client in clients[kind]:
                assert not is_closed(client), f"{kind}: closed before ten seconds have passed"
        time.sleep(6)
        for kind in clients:
            assert all(is_closed(client) for client in clients[kind]), f"{kind}: still open"
    # "silent" and "unread body" are dropped without being logged.
    assert dropped(service, "request headers not complete within 10 s") == 6
    assert dropped(service, "request body stalled for 10 s or not complete within 60 s") == 6
    assert dropped(service, "response stalled for 10 s or not read within 60 s") == 3


def is_closed(client: socket.socket) -> bool:
    """Read what has arrived, and return whether the connection was closed after it."""
    client.setblocking(False)
    try:
        while client.recv(2**20):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def dropped(service: Service, reason: str) -> int:
    """Return how many connections the log of a short run counts, in no more than two lines."""
    counts = re.findall(rf"\[WARNING\] Connections closed: (\d+) \({reason}\)\n", service.logged())
    assert len(counts) <= 2
    return sum(map(int, counts))


def test_stalled_response_ends_with_a_reset() -> None:
    with serve(STALL_TIMEOUT=1) as service, service.connect() as client:
        client.sendall(GET.replace(b"/", b"/large", 1) * 20)
        poll = select.poll()
        poll.register(client, select.POLLERR)
        assert poll.poll(10_000), "the connection stays open"
        with pytest.raises(ConnectionResetError):
            while client.recv(2**20):
                pass


@pytest.mark.parametrize(
    "sent",
    [HEAD, POST % 1000, CHUNKED + b"fff\r\n", UNREAD % 1000],
    ids=["head", "body", "chunked body", "unread body"],
)
def test_dripping_clients_are_dropped_when_the_time_for_a_request_has_passed(sent: bytes) -> None:
    with serve(HEAD_TIMEOUT=2, READ_TIMEOUT=2) as service, service.connect() as client:
        client.sendall(sent)
        started = time.monotonic()
        while not is_closed(client):
            with contextlib.suppress(ConnectionError):
                client.send(b"x")
            assert time.monotonic() < started + 10
            time.sleep(0.05)
        assert time.monotonic() > started + 1


@LINUX
def test_client_that_never_stops_sending_is_dropped() -> None:
    with serve(READ_TIMEOUT=2) as service:
        (worker,) = service.workers()
        descriptors = Path(f"/proc/{worker}/fd")
        time.sleep(0.5)  # until the connection of an earlier request is closed
        before = len(list(descriptors.iterdir()))
        with service.connect(timeout=0.1) as client:
            client.sendall(UNREAD % 2**40)
            started = time.monotonic()
            while time.monotonic() < started + 1 or len(list(descriptors.iterdir())) > before:
                assert time.monotonic() < started + 20
                with contextlib.suppress(OSError):  # the connection is closed, or the buffer full
                    client.send(bytes(2**20))


def test_client_that_reads_too_slowly_is_dropped() -> None:
    with serve(SEND_TIMEOUT=2) as service, connect_slow_reader(service.port) as client:
        client.sendall(GET.replace(b"/", b"/large", 1) * 10)
        started = time.monotonic()
        with pytest.raises(ConnectionResetError):
            while client.recv(1_000):  # each response takes 20 seconds
                assert time.monotonic() < started + 20
                time.sleep(0.02)


@pytest.mark.slow
def test_body_and_response_at_half_a_megabit_per_second_are_complete(service: Service) -> None:
    rate = 62_500  # bytes per second
    body = bytes(11 * rate)
    with connect_slow_reader(service.port) as client:
        client.sendall(POST % len(body))
        for start in range(0, len(body), rate // 10):
            client.sendall(body[start : start + rate // 10])
            time.sleep(0.1)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(rate // 10):
            received += part
            time.sleep(len(part) / rate)
    assert received.endswith(b"\r\n\r\n" + body)


@LINUX
def test_request_that_has_arrived_when_keep_alive_expires_is_served() -> None:
    with serve(APP, "--keep-alive=1") as service, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(100)]
        for client in clients:
            greet(client)
        (worker,) = service.workers()
        os.kill(worker, signal.SIGSTOP)
        time.sleep(1.5)
        for client in clients[:50]:
            client.sendall(GET)
        os.kill(worker, signal.SIGCONT)
        assert all(read_response(client) == HELLO for client in clients[:50])
        assert all(client.recv(1) == b"" for client in clients)
    assert "WARNING" not in service.logged()


LONG_UNREAD = UNREAD.replace(b"Host", b"Connection: close\r\nHost") % 300_000 + bytes(300_000)


@pytest.mark.parametrize(
    ("request_bytes", "first", "response"),
    [
        (POST % 5 + b"hello", -3, (200, b"hello")),
        (LONG_UNREAD, 100_000, (404, b"")),  # more than the worker reads of an unread body
    ],
    ids=["read", "unread"],
)
def test_request_that_arrives_in_part_as_keep_alive_expires_is_served(
    request_bytes: bytes, first: int, response: tuple[int, bytes]
) -> None:
    with serve(APP, "--keep-alive=1", MAX_UNREAD=2**17) as service, contextlib.ExitStack() as stack:
        for _ in range(10):  # again if this process was too slow
            clients = [stack.enter_context(service.connect()) for _ in range(100)]
            busy = clients.pop()
            for client in clients:  # one after the other, so that some are always about to expire
                greet(client)
                time.sleep(0.01)
            time.sleep(0.5)
            # While the app keeps the worker busy, requests begin to arrive on the others.
            busy.sendall(GET.replace(b"/", b"/busy", 1))
            time.sleep(0.2)
            open_clients = [client for client in clients if not is_closed(client)]
            for client in open_clients:
                client.settimeout(30)
                client.sendall(request_bytes[:first])
            if open_clients and not select.select([busy], [], [], 0)[0]:
                break
        else:
            pytest.fail("no request arrived while the worker was busy")
        assert read_response(busy) == (200, b"done")
        for client in open_clients:
            client.sendall(request_bytes[first:])
            assert read_response(client) == response


@LINUX
def test_body_that_arrives_while_the_worker_is_paused_is_served() -> None:
    with serve(STALL_TIMEOUT=1) as service, service.connect() as client:
        client.sendall(POST % 10 + b"01234")
        time.sleep(0.3)
        (worker,) = service.workers()
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.3)
        client.sendall(b"56789")
        time.sleep(1.5)
        os.kill(worker, signal.SIGCONT)
        assert read_response(client) == (200, b"0123456789")


# Request heads


@pytest.mark.parametrize("first", [b"", GET], ids=["first", "second"])
@pytest.mark.parametrize("size", [2**20, 1000])
def test_heads_up_to_64_kib_are_served_and_longer_ones_get_431(
    service: Service, first: bytes, size: int
) -> None:
    head = GET[:-2] + fields(6, 9_000) + b"Cookie: "
    fits = head + b"c" * (MAX_HEAD - len(head) - 4)
    for sent, expected in [(fits, 200), (fits + b"c", 431)]:
        with service.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(first)
            if first:
                assert read_response(client) == HELLO
            for start in range(0, len(sent), size):
                client.sendall(sent[start : start + size])
            client.sendall(b"\r\n\r\n")
            assert read_response(client)[0] == expected


@LINUX
def test_heads_that_do_not_end_use_little_memory() -> None:
    with serve() as service, contextlib.ExitStack() as stack:
        (before,) = service.private_memory()
        connect_all(stack, service.port, 200, GET[:-2] + fields(100, 8_000))
        assert service.request("GET", "/")[0] == 200
        assert service.private_memory()[0] < before + 200 * 0.2  # MiB


def test_trailers_over_64_kib_are_rejected(service: Service) -> None:
    for count, expected in [(7, b"200"), (100, b"431")]:
        received = service.send(CHUNKED + b"0\r\n" + fields(count, 8_000) + b"\r\n")
        assert received.split(b" ")[1] == expected


# Responses


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"no colon\r\n\r\n" + b"x" * 10**6, 400),
        (fields(100, 10_000) + b"x" * 10**6, 431),
        (b"Content-Length: 1000000\r\n\r\n" + b"x" * 10**6, 404),
        (b"Content-Length: 50000000\r\n\r\n" + b"x" * 50_000_000, 404),
    ],
    ids=["400", "431", "unread body", "long unread body"],
)
def test_client_that_sends_everything_first_can_read_the_error(
    service: Service, sent: bytes, expected: int
) -> None:
    for _ in range(20):  # because a reset loses only some of the responses
        with service.connect() as client:
            client.sendall(UNREAD.split(b"Content")[0] + sent)
            assert read_response(client)[0] == expected


def test_connection_stays_open_after_an_unread_body_unless_it_is_long(service: Service) -> None:
    with service.connect() as client:
        for length in (5, 3_000_000, 5_000_000):
            client.sendall(UNREAD % length + bytes(length))
            assert read_response(client)[0] == 404
        assert client.recv(1) == b""


def test_unread_chunk_is_not_taken_for_a_request(service: Service) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = CHUNKED.replace(b"/echo", b"/nowhere")
    short = service.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled))
    assert short.count(b"HTTP/1.1 ") == 1
    long = service.send(head + b"fffffff\r\n" + smuggled.ljust(6_000_000))
    assert long.count(b"HTTP/1.1 ") == 1
    malformed = service.send(head + b"zz\r\n" + smuggled)
    assert malformed.count(b"HTTP/1.1 ") == 1


def test_client_that_expects_100_continue_receives_it() -> None:
    with serve(SEND_TIMEOUT=2, READ_TIMEOUT=6) as service, service.connect() as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        time.sleep(3)  # longer than a response may take, but not longer than a body may
        client.sendall(b"hello")
        assert read_response(client) == (200, b"hello")


def test_time_for_a_response_begins_after_100_continue() -> None:
    expect = b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with serve(SEND_TIMEOUT=2) as service, service.connect() as client:
        client.sendall(HEAD.replace(b"/echo", b"/slow-large") + expect)
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        time.sleep(4)  # the app works for three seconds, and then the response waits for one
        client.sendall(b"hello")
        assert read_response(client) == (200, b"x" * LARGE)


def test_unread_response_outlives_the_timeout_of_the_next_request() -> None:
    body = bytes(40_000)
    with serve(HEAD_TIMEOUT=1) as service, connect_slow_reader(service.port) as client:
        client.sendall(POST % len(body) + body)
        time.sleep(0.5)
        client.sendall(b"GET")
        time.sleep(2)
        assert read_response(client) == (200, body)


# The end


def test_sigterm_finishes_requests_in_flight_and_in_the_backlog() -> None:
    with serve() as service, contextlib.ExitStack() as stack:
        connect_all(stack, service.port, 20, GET)  # and idle from then on
        in_flight = [stack.enter_context(service.connect()) for _ in range(20)]
        for client in in_flight:
            client.sendall(POST % 5 + b"he")
        assert service.request("GET", "/")[0] == 200
        connect_all(stack, service.port, 1, GET.replace(b"/", b"/busy", 1))
        time.sleep(0.2)
        queued = [stack.enter_context(service.connect()) for _ in range(100)]
        for client in queued:
            client.sendall(GET)
        service.process.terminate()
        time.sleep(0.8)
        for client in in_flight:
            client.sendall(b"llo" + GET)
        assert service.process.wait(5) == 0
        assert "Worker exiting" in service.logged()  # by itself, although no client has hung up
        for client in in_flight:
            received = client.makefile("rb").read()
            assert received.count(b"HTTP/1.1 200 OK") == 2
            assert received.endswith(b"hello!!")
            assert b"\r\nConnection: close\r\n" in received
        assert all(read_response(client) == HELLO for client in queued)
    assert "WARNING" not in service.logged()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGTERM]])
def test_stopping_service_does_not_wait_for_stalled_clients(
    signals: list[signal.Signals],
) -> None:
    with serve(workers=2) as service, contextlib.ExitStack() as stack:
        connect_all(stack, service.port, 20, POST % 1000)
        assert service.request("GET", "/")[0] == 200
        for number in signals:
            service.process.send_signal(number)
            time.sleep(0.1)
        assert service.process.wait(5) == 0


def test_idle_connections_do_not_delay_a_worker_that_stops() -> None:
    arguments = ["--max-requests=30", "--graceful-timeout=100"]
    with serve(APP, *arguments) as service, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(service.connect()) for _ in range(3)]
        for client in idle:
            greet(client)
        deadline = time.monotonic() + 60
        while service.logged().count("Booting worker") == 1:
            assert service.request("GET", "/")[0] == 200
            assert time.monotonic() < deadline, "the worker does not stop"
        assert all(client.recv(1) == b"" for client in idle)


def test_stopping_service_without_free_file_descriptors_loses_no_request() -> None:
    gunicorn = f"ulimit -n 64; exec {sys.executable} -m gunicorn {APP}"
    with (
        Service("sh", "-c", gunicorn, WEB_CONCURRENCY="1") as service,
        contextlib.ExitStack() as stack,
    ):
        in_flight = [stack.enter_context(service.connect()) for _ in range(20)]
        for client in in_flight:
            client.sendall(POST % 5 + b"he")
        connect_all(stack, service.port, 300)
        time.sleep(0.5)
        service.process.terminate()
        for client in in_flight:
            client.sendall(b"llo")
        assert all(read_response(client) == (200, b"hello") for client in in_flight)
        assert service.process.wait(5) == 0
    assert "Worker exiting" in service.logged()


# Settings


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--workers=0", "WEB_CONCURRENCY or --workers must be 1 or more."),
        (
            "--certfile=x",
            "Leave TLS and HTTP/2 to a proxy: remove --certfile and --http-protocols.",
        ),
        (
            "--http-protocols=h2",
            "Leave TLS and HTTP/2 to a proxy: remove --certfile and --http-protocols.",
        ),
    ],
)
def test_unsupported_setting_aborts_startup(tmp_path: Path, arguments: str, error: str) -> None:
    (tmp_path / "h2.py").write_text("__version__ = '4.3.0'")  # without it, gunicorn says so itself
    command = [sys.executable, "-m", "gunicorn", APP, arguments]
    env = {**os.environ, "PORT": str(free_port()), "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == error


def test_unix_socket_is_served(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    port = free_port()
    with (
        serve(APP, f"--bind=unix:{path}", f"--bind=127.0.0.1:{port}", port=port),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(path))
        greet(client)


def test_ipv4_client_has_an_ipv4_address(service: Service) -> None:
    assert service.request("GET", "/client")[2] == b"127.0.0.1"

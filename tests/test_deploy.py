"""Several instances behind a real load balancer."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.service import Load, Service, free_port, tool

# A prediction may be asked twice, and has to be where the kernel resets a connection that came
# between an instance's last accept and its close. HAProxy repeats only what it holds completely,
# so it has to wait for the body before it sends the headers on.
CONFIGURATION = """
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    option http-buffer-request
    option redispatch
    retry-on conn-failure empty-response
    option httpchk GET /
    default-server check inter 200ms fall 3 rise 1
frontend iris
    bind 127.0.0.1:{port}
    default_backend services
backend services
"""


def wait_for_all(port: int) -> None:
    """Wait until the balancer answers."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


@contextmanager
def balancer(folder: Path, services: list[Service]) -> Iterator[int]:
    """HAProxy on a port of its own, in front of the services."""
    port = free_port()
    servers = [f"    server s{s.port} 127.0.0.1:{s.port}\n" for s in services]
    path = folder / "haproxy.cfg"
    path.write_text(CONFIGURATION.format(port=port) + "".join(servers))
    command = [tool("haproxy"), "-f", path]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_all(port)
            yield port
        finally:
            process.terminate()


def test_restarting_one_after_the_other_loses_no_request(tmp_path: Path) -> None:
    tool("haproxy")
    with ExitStack() as stack:
        starting = [Service(WEB_CONCURRENCY="1") for _ in range(3)]
        services = [stack.enter_context(service) for service in starting]
        with balancer(tmp_path, services) as port, Load(port) as load:
            for service in services:
                service.process.terminate()
                assert service.process.wait(5) == 0
                stack.enter_context(Service(port=service.port, WEB_CONCURRENCY="1"))
                time.sleep(1)
        assert load.answered > 1000
        assert not load.failures

"""The real server in a process of its own, clients that put load on it, and other tools."""

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.samples import BODY, JSON, RESPONSE

ROOT = Path(__file__).parents[1]

# npm installs the tests' tools in NODE_MODULES, and pip beside Python; PATH contains both.
NODE_MODULES = ROOT / "tests" / "node_modules"
PATH = os.pathsep.join(
    [str(NODE_MODULES / ".bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
)
# A service's PYTHONPATH, unless a test overrides it. The sklearn.py in tests/image raises
# ImportError: without scikit-learn, as in the Docker image, the service starts in half the time.
WITHOUT_SCIKIT_LEARN = str(ROOT / "tests" / "image")


def tool(name: str) -> str:
    """Return the path of a program, or of a file in an npm package.

    If it is missing, the test is skipped, or fails in CI.
    """
    path = shutil.which(name, path=PATH) or str(NODE_MODULES / name)
    if not Path(path).exists():
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{name} is not installed")
    return path


def run_tool(*command: str | Path, cwd: Path = ROOT / "tests") -> str:
    """Return what a program prints, and show it if the program fails."""
    command = (tool(str(command[0])), *command[1:])
    env = {**os.environ, "PATH": PATH}  # some programs call others
    completed = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def node(program: str, *arguments: str | Path) -> str:
    """Run a program in Node, if the npm packages that it imports are installed."""
    for package in re.findall('from "([^:]*?)"', program):  # not node:fs and the like
        tool(package)
    return run_tool("node", "--input-type=module", "--eval", program, *arguments)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def read_response(client: socket.socket) -> tuple[int, bytes]:
    """Read a response, and return its status and body."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.read()


class Service:
    """`gunicorn run:app` or another command, on a port of its own, until the `with` block ends."""

    def __init__(self, *command: str, port: int | None = None, **env: str) -> None:
        self.port = port or free_port()
        self.log = tempfile.NamedTemporaryFile("w")  # noqa: SIM115
        self.process = subprocess.Popen(
            command or (sys.executable, "-m", "gunicorn", "run:app"),
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": WITHOUT_SCIKIT_LEARN,
                "PORT": str(self.port),
                **env,
            },
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert self.request("GET", "/")[2] == b"hello!!"
                return self
            except (OSError, AssertionError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    pytest.exit(f"The service did not start:\n{self.logged()[-2000:]}", 1)
                time.sleep(0.05)

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.logged()  # keeps the text, because closing deletes the file
        self.log.close()

    def logged(self) -> str:
        """Return the log so far, or all of it once the service has exited."""
        if not self.log.closed:
            self.text = Path(self.log.name).read_text()
        return self.text

    def workers(self) -> list[int]:
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in task.read_text().split()]

    def private_memory(self) -> list[float]:
        """Return each worker's private memory (shared with no other process), in MiB."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.workers()]
        return [
            sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private"))
            / 1024
            for rollup in rollups
        ]

    def connect(self, timeout: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] = JSON
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def send(self, sent: bytes) -> bytes:
        """Send bytes as they are, then nothing more, and return all that comes back."""
        received = b""
        with self.connect() as client, contextlib.suppress(ConnectionError):
            client.sendall(sent)
            with contextlib.suppress(OSError):  # it may have hung up by now
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                received += part
        return received


class Load:
    """Keep-alive clients that post a sample again and again, until the `with` block ends."""

    def __init__(self, port: int, clients: int = 16) -> None:
        self.port = port
        self.answered = 0
        self.failures: list[Exception] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stopped.is_set():
            try:
                connection.request("POST", "/predict", BODY, JSON)
                response = connection.getresponse()
                answer = response.status, response.read()
                assert answer == (200, RESPONSE), answer
                self.answered += 1
            except (OSError, http.client.HTTPException, AssertionError) as failure:
                self.failures.append(failure)
                connection.close()
        connection.close()

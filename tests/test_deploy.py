"""Several instances behind a real load balancer, the image's files and the manifest's limits."""

import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

import gunicorn_worker
import request_body
from tests.samples import BODY, JSON, RESPONSE
from tests.service import ROOT, Load, Service, free_port, tool

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")  # without its line breaks

# A prediction may be requested twice, and must be if the kernel resets a connection that arrived
# between an instance's last accept and its close. HAProxy only repeats requests that it holds
# completely, so it must wait for the body before it forwards the headers.
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
    """Wait until the balancer accepts connections."""
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


def test_rolling_restart_loses_no_request(tmp_path: Path) -> None:
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


def image_files() -> set[Path]:
    """Return the files that .dockerignore lets into the image, where the last match decides."""
    files: set[Path] = set()
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line.startswith("#"):
            continue
        matches = (
            {
                file
                for match in ROOT.glob(pattern)
                for file in ([match] if match.is_file() else match.rglob("*"))
                if file.is_file()
            }
            if pattern != "*"
            else files.copy()
        )
        files = files | matches if line.startswith("!") else files - matches
    return {file.relative_to(ROOT) for file in files}


def test_image_files_serve(tmp_path: Path) -> None:
    for file in image_files():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (command,) = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    in_folder = ("sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), sys.executable, "-m")
    with Service(*in_folder, *json.loads(command)) as service:
        headers = {**JSON, "X-Request-ID": "7b0c"}
        assert service.request("POST", "/predict", BODY, headers)[2] == RESPONSE
        assert service.request("GET", "/static/openapi.json")[0] == 200
    line = r'^127\.0\.0\.1 \[\S+ \S+\] "POST /predict HTTP/1\.1" 200 \d+ 0\.\d{6} 7b0c$'
    assert re.search(line, service.logged(), re.MULTILINE)


def test_image_contains_only_what_serves() -> None:
    files = image_files()
    assert {file.parts[0] for file in files if len(file.parts) > 1} == {"model", "static"}
    assert {file.suffix for file in files if file.parts[0] == "model"} == {".pgz", ".sha256"}
    assert not {file.suffix for file in files} & {".csv", ".webp"}


def test_version_is_the_newest_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)[0]
    openapi = json.loads((ROOT / "static" / "openapi.json").read_text())
    assert openapi["info"]["version"] == version
    for name in ("kubernetes.yaml", "README.md"):
        versions = re.findall(r"iris-prediction-service:([\w.-]+)", (ROOT / name).read_text())
        assert set(versions) <= {version}


def test_image_health_check_fails_without_the_service(service: Service) -> None:
    (check,) = re.findall(r"^HEALTHCHECK CMD (.+)$", DOCKERFILE, re.MULTILINE)
    command = [sys.executable, *json.loads(check)[1:]]
    assert subprocess.run(command, env={"PORT": str(service.port)}).returncode == 0
    asked = subprocess.run(command, env={"PORT": str(free_port())}, capture_output=True)
    assert b"ConnectionRefusedError" in asked.stderr


def test_memory_limit_covers_the_worst_case() -> None:
    manifest = (ROOT / "kubernetes.yaml").read_text()
    settings = (ROOT / "gunicorn.conf.py").read_text()
    (connections,) = re.findall(r"^worker_connections = min\((\d+),", settings, re.MULTILINE)
    large = request_body.LARGE_REQUESTS * request_body.MAX_RESPONSE // 2**20
    head, response = gunicorn_worker.MAX_HEAD // 2**10, 2 * gunicorn_worker.SEND_BUFFER // 2**10
    worst = 66 + 3 * large + int(connections) * (2.5 * head + response) / 1024
    computed = f"66 + 3 * {large} + {connections} * (2.5 * {head} + {response}) / 1024"
    assert f"#   {computed} = {worst:.0f}\n" in manifest
    pod = next(yaml.safe_load_all(manifest))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name": "WEB_CONCURRENCY", "value": "1"} in container["env"]
    assert container["resources"]["limits"]["memory"] == f"{32 * math.ceil(worst / 32)}Mi"

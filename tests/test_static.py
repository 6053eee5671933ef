"""What is fetched from the service, against the service."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flask.testing import FlaskClient

import model
import run
from request_body import LARGE_BODIES, SMALL
from tests import iris
from tests.iris import FLOWER
from tests.service import JSON, ROOT, Service

STATIC = ROOT / "static"
README = (ROOT / "README.md").read_text("utf-8")
OUT_OF_DATE = "out of date: python model/train.py"


def read(text: str | bytes) -> Any:
    """Read JSON, without the last digits of a probability, which are the processor's own."""
    return json.loads(text, parse_float=lambda digits: round(float(digits), 6))


def content(headers: Mapping[str, str], body: bytes) -> Any:
    return read(body) if "json" in headers["Content-Type"] else body.decode()


LIMIT = run.app.config["MAX_CONTENT_LENGTH"]
OPENAPI = read((STATIC / "openapi.json").read_bytes())
COLLECTION = json.loads((STATIC / "postman_collection.json").read_bytes())
OPERATIONS = [
    (path, method, operation)
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
]


@pytest.mark.parametrize("path", sorted(path.name for path in STATIC.iterdir()))
def test_every_file_is_served_to_any_origin(service: Service, path: str) -> None:
    headers = {"Origin": "https://any.example"}
    status, received, body = service.request("GET", f"/static/{path}", headers=headers)
    assert (status, body) == (200, (STATIC / path).read_bytes())
    assert received["Access-Control-Allow-Origin"] == "https://any.example"


def test_the_description_agrees_with_the_code() -> None:
    schemas = OPENAPI["components"]["schemas"]
    assert schemas["Flower"] == msgspec.json.schema(run.Flower)["$defs"]["Flower"]
    assert schemas["ClassLabel"]["pattern"] == f"^[0-{len(model.SPECIES) - 1}]$"
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(model.SPECIES))
    assert schemas["ClassLabel"]["description"] == classes
    assert tuple(schemas["Probabilities"]["properties"]) == model.SPECIES
    assert tuple(schemas["Probabilities"]["required"]) == model.SPECIES
    assert OPENAPI["paths"]["/predict"]["post"]["description"].endswith(f"Classes: {classes}.")
    served = {rule.rule for rule in run.app.url_map.iter_rules() if rule.endpoint != "static"}
    assert set(OPENAPI["paths"]) == served
    # Postman takes the first server for its variable baseUrl; to others, the file says its own.
    assert [server["url"] for server in OPENAPI["servers"]] == ["http://127.0.0.1:3000", ".."]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_a_path_is_described_wherever_people_look(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    api = README.split("\n## API\n")[1].split("\n## ")[0]
    assert f"`{method.upper()} {path}`" in api, "README: API"
    requests = [item["request"] for item in COLLECTION["item"]]
    collected = {(request["url"]["raw"], request["method"]) for request in requests}
    assert (f"{{{{baseUrl}}}}{path}", method.upper()) in collected, "postman_collection.json"


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
def test_one_flower_and_many_are_examples(path: str) -> None:
    body = OPENAPI["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    one, many = (example["value"] for example in body["examples"].values())
    assert one == FLOWER
    assert many[0] == FLOWER and len(many) == 2


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_example_has_the_services_answer(
    service: Service, path: str, method: str, operation: dict[str, Any]
) -> None:
    (answered,) = operation["responses"]["200"]["content"].values()
    if "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        for name, example in examples.items():
            body = json.dumps(example["value"])
            _, headers, answer = service.request(method.upper(), path, body)
            assert content(headers, answer) == answered["examples"][name]["value"], OUT_OF_DATE
    else:
        _, headers, answer = service.request(method.upper(), path)
        assert content(headers, answer) == answered["example"], OUT_OF_DATE
    problems = [response for status, response in operation["responses"].items() if status != "200"]
    assert not [problem for problem in problems if "content" in problem], "not in components"


@pytest.fixture
def busy(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """Return a client whose service is answering as many of the longest bodies as it can."""
    monkeypatch.setattr(run.body_reader, "reserved", 0)  # other tests leave answers open
    body = b"[]".ljust(LIMIT)
    with ExitStack() as answers:
        for _ in range(LARGE_BODIES):
            answer = client.post("/predict", data=body, headers=JSON)
            assert answer.status_code == 200
            answers.enter_context(answer)
        yield client


def test_an_error_shown_is_the_services(busy: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = [item["response"][0] for item in COLLECTION["item"]]  # the service's: see below
    answers = {answer["code"]: answer["body"] for answer in saved}
    answers[503] = busy.post("/predict", data=b" " * LIMIT, headers=JSON).text
    monkeypatch.setitem(run.app.view_functions, "hello", lambda: 1 / 0)
    answers[500] = busy.get("/").text
    for response in OPENAPI["components"]["responses"].values():
        shown = response["content"]["application/problem+json"]["example"]
        assert read(answers[shown["status"]]) == shown, OUT_OF_DATE


def test_the_limits_shown_are_the_services(busy: FlaskClient) -> None:
    rows = dict(re.findall(r"^\| ([0-9]{3}) \| (.*) \|$", README, re.MULTILINE))
    responses = OPENAPI["components"]["responses"]
    mib = f"{LIMIT // 1024**2} MiB"
    assert responses["TooLong"]["description"] == f"The body is longer than {mib}."
    assert f"longer than {mib}" in rows["413"]
    (too_long,) = [item for item in COLLECTION["item"] if item["name"] == "Refused: too long"]
    assert f"A body may have {mib};" in too_long["request"]["description"]
    before, after = (event["script"]["exec"] for event in too_long["event"])
    assert before == [f"pm.variables.set('tooLong', ' '.repeat({LIMIT} + 1));"]
    assert f"to.include('{LIMIT}')" in "".join(after)

    assert f"{LARGE_BODIES * LIMIT // 1024**2} MiB together" in rows["503"]
    assert busy.post("/predict", data=b"[]".ljust(SMALL), headers=JSON).status_code == 200
    assert busy.post("/predict", data=b"[]".ljust(SMALL + 1), headers=JSON).status_code == 503
    assert f"more than {SMALL // 1024} KiB" in rows["503"]
    assert f"more than {SMALL // 1024} KiB" in responses["Busy"]["description"]

    answer = busy.post("/predict", json=[{}] * 101).json  # at least 101 fields are missing
    assert answer and len(answer["errors"]) == 100
    assert "up to 100" in rows["422"]
    assert "up to 100" in responses["WrongContent"]["description"]


def test_a_body_has_room_for_as_many_flowers_as_said(client: FlaskClient) -> None:
    lengths = np.random.default_rng(0).uniform(0, 8, (iris.ROOM, len(run.NAMES))).tolist()
    flowers = [
        dict(zip(run.NAMES, row, strict=True)) | {"species": model.SPECIES[0]} for row in lengths
    ]
    answer = client.post("/predict", data=json.dumps(flowers), headers=JSON).json
    assert answer and len(answer["return"]) == iris.ROOM
    assert f"room for {iris.ROOM:,} flowers" in README


def test_the_readme_has_the_models_figures(service: Service) -> None:
    (shown,) = re.findall(r'^\{"return":\{.*\}\}$', README, re.MULTILINE)
    answer = service.request("POST", "/predict_proba", json.dumps(FLOWER))[2]
    assert read(answer) == read(shown), f"README: {OUT_OF_DATE}"
    edges, _ = model.thresholds(model.load(ROOT / "model"))
    shown = json.loads((STATIC / "thresholds.json").read_text())
    assert tuple(shown) == run.NAMES
    assert [np.float32(of).tolist() for of in shown.values()] == [of.tolist() for of in edges]
    *first, last = (str(len(edge)) for edge in edges)
    cells = [len(edge) + 1 for edge in edges]
    assert f"{', '.join(first)} and {last} of them" in README, "README: thresholds"
    product = " × ".join(map(str, cells))  # noqa: RUF001
    assert f"{product} = {math.prod(cells):,} cells" in README, "README: cells"


def test_the_readmes_error_is_the_services(client: FlaskClient) -> None:
    flower = FLOWER.copy()
    flower.popitem()
    assert client.post("/predict", json=[FLOWER] * 17 + [flower]).text in README


@pytest.mark.timeout(900)
def test_schemathesis_finds_no_disagreement(service: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{service.port}"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/static/openapi.json"),
        *("--url", url, "--checks", "all", "--workers", "2"),
        *("--max-examples", "1000" if "CI" in os.environ else "100"),
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "No issues found" in ended.stdout


def test_the_collection_shows_the_answers_that_come(service: Service) -> None:
    assert COLLECTION["variable"] == [{"key": "baseUrl", "value": "http://localhost:3000"}]
    for item in COLLECTION["item"]:
        (saved,) = item["response"]
        request = item["request"]
        headers = {header["key"]: header["value"] for header in request["header"]}
        body = request.get("body", {}).get("raw", "").replace("{{tooLong}}", " " * (LIMIT + 1))
        path = request["url"]["raw"].removeprefix("{{baseUrl}}")
        status, received, answer = service.request(request["method"], path, body, headers)
        assert (status, received["Content-Type"]) == (saved["code"], saved["header"][0]["value"])
        shown = content(received, saved["body"].encode())
        assert content(received, answer) == shown, f"{item['name']}: {OUT_OF_DATE}"

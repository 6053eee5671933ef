"""The generated files, against the code and the real service."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flask.testing import FlaskClient

import model
import run
import schema
import validation
from tests.samples import CLASSES, FIELDS, FIRST, JSON, LAST, OTHER, PREDICTIONS, SAMPLE
from tests.service import ROOT, Service

STATIC = ROOT / "static"
README = (ROOT / "README.md").read_text("utf-8")
STALE = "stale: python model/train.py"


def read(text: str | bytes) -> Any:
    """Read JSON, without the last digits of a probability, which depend on the processor."""
    return json.loads(text, parse_float=lambda digits: round(float(digits), 6))


def content(headers: Mapping[str, str], body: bytes) -> Any:
    return read(body) if "json" in headers["Content-Type"] else body.decode()


READER = run.body_reader
OPENAPI = read((STATIC / "openapi.json").read_bytes())
COLLECTION = json.loads((STATIC / "postman_collection.json").read_bytes())
INFO = json.loads((STATIC / "model-info.json").read_bytes())
OPERATIONS = [
    (path, method, operation)
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
]
IDS = [path for path, _, _ in OPERATIONS]


def test_generated_files_are_current(tmp_path: Path) -> None:
    """Publish the model again in a copy of the repository: no file may change."""
    ignore = shutil.ignore_patterns(".*", "node_modules", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=ignore)
    command = [sys.executable, "-B", "model/publish.py", f"model/{model.PATH.name}"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    names = [path.relative_to(copy) for path in copy.rglob("*") if path.is_file()]
    for name in names:
        written, committed = ((folder / name).read_bytes() for folder in (copy, ROOT))
        assert comparable(written) == comparable(committed), f"{name} is {STALE}"


def comparable(content: bytes) -> bytes:
    """Leave out the last digits of probabilities, which depend on the processor, and the accuracy.

    model/train.py writes another accuracy into README than model/publish.py.
    """
    return re.sub(rb"(\.\d{6})\d+|\n- accuracy.*", rb"\1", content)


@pytest.mark.parametrize("path", sorted(path.name for path in STATIC.iterdir()))
def test_static_file_is_served_to_any_origin(service: Service, path: str) -> None:
    headers = {"Origin": "https://any.example"}
    status, received, body = service.request("GET", f"/static/{path}", headers=headers)
    assert (status, body) == (200, (STATIC / path).read_bytes())
    assert received["Access-Control-Allow-Origin"] == "https://any.example"


def test_openapi_agrees_with_the_code() -> None:
    schemas = OPENAPI["components"]["schemas"]
    name = schema.Sample.__name__
    assert (
        schemas[name]
        == read(msgspec.json.encode(msgspec.json.schema(schema.Sample)))["$defs"][name]
    )
    labels = [str(index) for index in range(len(CLASSES))]
    for label in [*labels, str(len(CLASSES)), "-1", "00", ""]:
        matches = re.search(schemas["ClassLabel"]["pattern"], label) is not None
        assert matches == (label in labels)
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(CLASSES))
    assert schemas["ClassLabel"]["description"] == classes
    assert list(schemas["Probabilities"]["properties"]) == list(CLASSES)
    assert schemas["Probabilities"]["required"] == list(CLASSES)
    assert OPENAPI["paths"]["/predict"]["post"]["description"].endswith(f"Classes: {classes}.")
    served = {rule.rule for rule in run.app.url_map.iter_rules() if rule.endpoint != "static"}
    assert set(OPENAPI["paths"]) == served
    # Postman takes the first server for its variable baseUrl; to others, the file says its own.
    assert [server["url"] for server in OPENAPI["servers"]] == ["http://127.0.0.1:3000", ".."]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=IDS)
def test_operation_is_documented_everywhere(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    assert f"`{method.upper()} {path}`" in README
    requests = [item["request"] for item in COLLECTION["item"]]
    collected = {(request["url"]["raw"], request["method"]) for request in requests}
    assert (f"{{{{baseUrl}}}}{path}", method.upper()) in collected


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
def test_examples_are_one_sample_and_an_array(path: str) -> None:
    body = OPENAPI["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    one, many = (example["value"] for example in body["examples"].values())
    assert one == read(json.dumps(SAMPLE))
    assert many == read(json.dumps([SAMPLE, OTHER]))


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=IDS)
def test_openapi_examples_show_the_services_responses(
    service: Service, path: str, method: str, operation: dict[str, Any]
) -> None:
    (shown,) = operation["responses"]["200"]["content"].values()
    if "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        for name, example in examples.items():
            body = json.dumps(example["value"])
            _, headers, received = service.request(method.upper(), path, body)
            assert content(headers, received) == shown["examples"][name]["value"], STALE
    else:
        _, headers, received = service.request(method.upper(), path)
        assert content(headers, received) == shown["example"], STALE
    others = [response for status, response in operation["responses"].items() if status != "200"]
    assert not [response for response in others if "content" in response], "not in components"


@pytest.fixture
def busy(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """Return a client whose service has as many large requests in progress as it can."""
    monkeypatch.setattr(READER, "reserved", READER.budget)
    return client


def test_openapi_errors_show_the_services_responses(
    busy: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    invalid = SAMPLE | {FIRST: "unknown"}
    del invalid[LAST]
    monkeypatch.setitem(run.app.view_functions, "hello", lambda: 1 / 0)
    long = b" " * READER.limit
    responses = {
        "InvalidJson": busy.post("/predict", headers=JSON),
        "BodyTooLarge": busy.post("/predict", data=long + b" ", headers=JSON),
        "UnsupportedMediaType": busy.post("/predict"),
        "ValidationError": busy.post("/predict", json=invalid),
        "ServiceUnavailable": busy.post("/predict", data=long, headers=JSON),
        "Problem": busy.get("/"),
    }
    components = OPENAPI["components"]["responses"]
    assert set(components) == set(responses)
    for name, response in responses.items():
        shown = components[name]["content"]["application/problem+json"]["example"]
        assert read(response.data) == shown, STALE


def test_documented_limits_are_the_services(busy: FlaskClient) -> None:
    rows = dict(re.findall(r"^\| ([0-9]{3}) \| (.*) \|$", README, re.MULTILINE))
    responses = OPENAPI["components"]["responses"]
    limit, small = (format_length(length) for length in (READER.limit, READER.small))
    assert responses["BodyTooLarge"]["description"] == f"The body is longer than {limit}."
    assert f"longer than {limit}" in rows["413"]
    assert f"over {small}" in rows["503"]
    assert f"over {small}" in responses["ServiceUnavailable"]["description"]
    for length, status in ((READER.small, 200), (READER.small + 1, 503)):
        response = busy.post("/predict", data=b"[]".ljust(length), headers=JSON)
        assert response.status_code == status
    response = busy.post("/predict", json=[{}] * 101)  # at least 101 fields are missing
    assert len(response.json["errors"]) == 100
    assert "up to 100" in rows["422"]
    assert "up to 100" in responses["ValidationError"]["description"]


def format_length(length: int) -> str:
    if length % 2**20 == 0:
        return f"{length // 2**20} MiB"
    return f"{length // 2**10} KiB" if length % 2**10 == 0 else f"{length:,} bytes"


def test_body_has_room_for_as_many_samples_as_documented(client: FlaskClient) -> None:
    """Send values with the largest number of digits, in compact JSON."""
    (room,) = re.findall(r"at least ([\d,]+) \w[\w ]*s fit", README)
    count = int(room.replace(",", ""))
    values = np.array([longest_value(field) for field in FIELDS])
    sample = msgspec.json.encode(dict(zip(SAMPLE, values.tolist(), strict=True)))
    body = b"[%b]" % b",".join([sample] * count)
    assert len(sample) < validation.LONGEST_SAMPLE
    assert len(body) <= READER.limit
    response = client.post("/predict", data=body, headers=JSON)
    assert len(response.json["return"]) == count


def longest_value(field: validation.Field) -> float:
    """Return a value between a field's limits with many digits, if it may have a fraction."""
    middle = (field.minimum + field.maximum) / 2
    return float(round(middle)) if field.is_integer else middle + (field.maximum - middle) / 3


def test_response_is_no_longer_than_reserved(client: FlaskClient) -> None:
    samples = [prediction["sample"] for prediction in PREDICTIONS]
    body = msgspec.json.encode(samples)
    response = client.post("/predict_proba", data=body, headers=JSON)
    assert len(response.data) <= validation.LONGEST_PROBABILITIES * len(samples) + 20
    assert len(response.data) <= READER.size_per_body * len(body) + 20


def test_longest_probability_has_as_many_characters_as_assumed() -> None:
    random = np.random.default_rng(0)
    exponents = 10 ** random.uniform(-45, 0, 200_000)
    for values in (exponents, random.random(200_000), np.array([1e-5, 6.1033563e-05, 1])):
        encoded = [msgspec.json.encode(float(value)) for value in values.astype(np.float32)]
        assert max(map(len, encoded)) <= validation.MAX_PROBABILITY_LENGTH
    assert (
        len(msgspec.json.encode(float(np.float32(6.1033563e-05))))
        == validation.MAX_PROBABILITY_LENGTH
    )


def test_model_info_describes_the_model(service: Service) -> None:
    received = json.loads(service.request("GET", "/static/model-info.json")[2])
    assert received["model"]["sha256"] == model.digest()
    assert received["model"]["file"] == model.PATH.name
    assert received["classes"] == list(CLASSES)
    assert [feature["name"] for feature in received["features"]] == list(SAMPLE)
    edges = model.find_edges(model.booster)
    for index, feature in enumerate(received["features"]):
        edge = edges.get(index, np.empty(0, np.float32))
        assert np.float32(feature["thresholds"]).tolist() == edge[np.isfinite(edge)].tolist()
        low, high = feature["minimum"], feature["maximum"]
        assert FIELDS[index].minimum <= low < high <= FIELDS[index].maximum
    assert (received["data"] is not None) == schema.PUBLISH_DATA
    assert (STATIC / "training-data.json").exists() == schema.PUBLISH_DATA


def test_readme_shows_the_services_responses(client: FlaskClient) -> None:
    assert (STATIC / "example.json").read_text("utf-8").strip() in README
    assert json.loads((STATIC / "example.json").read_bytes()) == SAMPLE
    invalid = SAMPLE.copy()
    invalid.popitem()
    assert client.post("/predict", json=[SAMPLE] * 17 + [invalid]).text in README
    (shown,) = re.findall(r'^\{"return":\{.*\}\}$', README, re.MULTILINE)
    assert read(client.post("/predict_proba", json=SAMPLE).data) == read(shown), STALE


def test_private_data_is_shown_nowhere() -> None:
    """Only a name in DATA, the examples, which are medians, and the model follow from it."""
    if schema.PUBLISH_DATA:
        assert INFO["samples"] and INFO["data"]
    else:
        assert schema.EXAMPLES is None
        assert (INFO["samples"], INFO["data"], INFO["mistake"]) == (None, None, None)
        for field, feature in zip(FIELDS, INFO["features"], strict=True):
            assert (feature["minimum"], feature["maximum"]) == (field.minimum, field.maximum)
            assert feature["distinct"] is None


@pytest.mark.timeout(900)
def test_schemathesis_finds_no_disagreement(service: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{service.port}"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/static/openapi.json"),
        *("--url", url, "--checks", "all", "--workers", "2"),
        *("--max-examples", "1000" if "CI" in os.environ else "100"),
    ]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout
    assert "No issues found" in completed.stdout


def test_postman_collection_shows_the_services_responses(service: Service) -> None:
    assert COLLECTION["variable"] == [{"key": "baseUrl", "value": "http://localhost:3000"}]
    assert len(COLLECTION["item"]) == 5
    for item in COLLECTION["item"]:
        (saved,) = item["response"]
        request = item["request"]
        headers = {header["key"]: header["value"] for header in request["header"]}
        body = request.get("body", {}).get("raw", "")
        path = request["url"]["raw"].removeprefix("{{baseUrl}}")
        status, received, response = service.request(request["method"], path, body, headers)
        assert status == saved["code"]
        assert received["Content-Type"].split(";")[0] == saved["header"][0]["value"]
        assert content(received, response) == content(received, saved["body"].encode()), STALE

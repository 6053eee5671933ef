"""Generate the files that describe the API or are read by the demo page and the tests.

They are the OpenAPI description, the Postman collection, README's generated blocks, two scripts
that classify a CSV, an example, the demo page's data and the tests' expected predictions.
model/publish.py calls `generate` with the service that it is about to publish, and every response
shown comes from that service. The fixed text of the OpenAPI description is in
openapi_template.json, beside this file.
"""

import json
import math
import string
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from werkzeug.exceptions import InternalServerError
from werkzeug.test import TestResponse
from xgboost import XGBClassifier, __version__

import schema
from draft_schema import round_outward, to_readable
from validation import (
    FIELDS,
    LONGEST_SAMPLE,
    MAX_ERRORS,
    NAMES,
    SAMPLE_NAME,
    Field,
    digest_schema,
)

Array = NDArray[Any]
JsonObject = dict[str, Any]

ROOT = Path(__file__).parents[1]
STRUCT_NAME = schema.Sample.__name__
CLASSES = list(schema.CLASSES)
JSON_HEADERS = {"Content-Type": "application/json"}


def generate(
    service: ModuleType,
    classifier: XGBClassifier,
    examples: Array,
    samples: Array,
    classes: Array,
    columns: list[str],
    accuracy: str,
) -> dict[str, bytes | None]:
    """Return the content of every generated file by path, or None for one that must not exist.

    `service` is the module `run`, imported with the new model, and `classifier` is the classifier
    that was published. `examples` are two samples, shape (2, n_features); `samples` and `classes`
    are those of DATA, as publish.read_data() returns them, and `columns` its feature columns.
    """
    example, other = (to_object(values) for values in examples)
    openapi = describe_api(service, example, other)
    data = training_data(samples, classes) if schema.PUBLISH_DATA else None
    info = model_info(service, classifier, example, samples, classes)
    batch_size = samples_per_body(service)
    # Code that makes the two scripts send missing values as null.
    null_in_python = ".astype(object).where(lambda samples: samples.notna(), None)"
    null_in_r = ', na = "null"'
    return {
        "docs/predict_csv.py": write_script(PYTHON_SCRIPT, null_in_python, batch_size, columns),
        "docs/predict_csv.R": write_script(R_SCRIPT, null_in_r, batch_size, columns),
        "static/example.json": to_json(example),
        "static/openapi.json": to_json(openapi, indent=2),
        "static/postman_collection.json": to_json(make_collection(openapi), indent=2),
        "static/model-info.json": to_json(info, indent=1),
        "static/training-data.json": data,
        "tests/expected_predictions.json": to_json(
            expected_predictions(classifier, examples), indent=1
        ),
        "README.md": update_readme(service, example, other, data, len(samples), accuracy),
    }


def samples_per_body(service: ModuleType) -> int:
    """Return how many samples with the longest values fit in a body of compact JSON."""
    return service.body_reader.limit // LONGEST_SAMPLE


def allowed_limits(field: Field) -> tuple[float, float]:
    """Return the smallest and the largest value that a field allows."""
    if field.is_integer:
        return math.ceil(field.minimum), math.floor(field.maximum)
    return field.minimum, field.maximum


def to_object(sample: Array) -> JsonObject:
    """Return a sample for the API: whole numbers without a fraction, and None for NaN."""
    values = [
        None if math.isnan(value) else int(value) if value.is_integer() else value
        for value in map(float, sample)
    ]
    return dict(zip(NAMES, values, strict=True))


def to_json(value: Any, indent: int | None = None) -> bytes:
    return f"{json.dumps(value, indent=indent, ensure_ascii=False)}\n".encode()


def call(
    service: ModuleType, path: str, status: int = 200, method: str = "POST", **request: Any
) -> TestResponse:
    """Return the service's response; raise SystemExit if it has another status."""
    response = service.app.test_client().open(path, method=method, **request)
    if response.status_code != status:
        raise SystemExit(
            f"{method} {path} returns {response.status_code}, not {status}: {response.text:.300}"
        )
    return response


# ---- OpenAPI -------------------------------------------------------------------------------


class Template(string.Template):
    """A text in which %name is replaced by a value."""

    delimiter = "%"


def describe_api(service: ModuleType, example: JsonObject, other: JsonObject) -> JsonObject:
    """Return the OpenAPI description, with the schema's fields and the service's responses."""
    reader = service.body_reader
    text = (ROOT / "model" / "openapi_template.json").read_text("utf-8")
    values = {
        "title": schema.TITLE,
        "description": schema.DESCRIPTION,
        "sample": SAMPLE_NAME,
        "Sample": STRUCT_NAME,
        "classes": ", ".join(f"{index} {name}" for index, name in enumerate(CLASSES)),
        "max_length": format_bytes(reader.limit),
        "small": format_bytes(reader.small),
    }
    # Each %name is inside a string of the template, so its value is escaped, but not quoted.
    escaped = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in values.items()}
    openapi = json.loads(Template(text).substitute(escaped))
    components = openapi["components"]
    schemas = components["schemas"]
    schemas[STRUCT_NAME] = msgspec.json.schema(schema.Sample)["$defs"][STRUCT_NAME]
    labels = "|".join(str(index) for index in range(len(CLASSES)))
    schemas["ClassLabel"]["pattern"] = f"^({labels})$"
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    schemas["Probabilities"]["properties"] = dict.fromkeys(CLASSES, probability)
    schemas["Probabilities"]["required"] = CLASSES
    schemas["Probabilities"]["additionalProperties"] = False
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            add_examples(service, path, method, operation, example, other)
    for name, response in error_examples(service, example).items():
        problem = components["responses"][name]["content"]["application/problem+json"]
        problem["example"] = response
    return openapi


def add_examples(
    service: ModuleType,
    path: str,
    method: str,
    operation: JsonObject,
    example: JsonObject,
    other: JsonObject,
) -> None:
    """Add the example requests of an operation, and the service's response to each."""
    (content,) = operation["responses"]["200"]["content"].values()
    if "requestBody" not in operation:
        content["example"] = call(service, path, method=method).text
        return
    many = f"An array with one object per {SAMPLE_NAME}"
    requests: dict[str, JsonObject] = {
        "one": {"summary": f"One {SAMPLE_NAME}", "value": example},
        "many": {"summary": many, "value": [example, other]},
    }
    operation["requestBody"]["content"]["application/json"]["examples"] = requests
    content["examples"] = {}
    for name, request in requests.items():
        response = call(service, path, method=method, json=request["value"])
        content["examples"][name] = {"summary": request["summary"], "value": response.json}


def error_examples(service: ModuleType, example: JsonObject) -> dict[str, Any]:
    """Return an example of each error response, by the name of its OpenAPI component."""
    reader = service.body_reader
    full = b" " * reader.limit
    invalid = example | {NAMES[0]: "unknown"}
    del invalid[NAMES[-1]]
    responses = {
        "InvalidJson": call(service, "/predict", 400, headers=JSON_HEADERS).json,
        "BodyTooLarge": call(service, "/predict", 413, data=full + b" ", headers=JSON_HEADERS).json,
        "UnsupportedMediaType": call(service, "/predict", 415, data="").json,
        "ValidationError": call(service, "/predict", 422, json=invalid).json,
    }
    reader.reserved = reader.budget  # as if other requests had used it up
    reader.warned_at = math.inf  # no warning, because this rejection is only an example
    responses["ServiceUnavailable"] = call(
        service, "/predict", 503, data=full, headers=JSON_HEADERS
    ).json
    reader.reserved = 0
    with service.app.test_request_context():
        responses["Problem"] = service.problem(InternalServerError()).json
    return responses


def format_bytes(length: int) -> str:
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if length % unit == 0:
            return f"{length // unit} {name}"
    return f"{length:,} bytes"


# ---- Postman -------------------------------------------------------------------------------

POSTMAN_SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
POSTMAN_TEST = """\
pm.test("The response has classes, or probabilities that add up to 1", () => {
    pm.response.to.have.status(200);
    if (!pm.response.headers.get("Content-Type").includes("json")) return;
    for (const result of [].concat(pm.response.json().return)) {
        if (typeof result === "string") pm.expect(result).to.match(/^[0-9]+$/);
        else pm.expect(Object.values(result).reduce((a, b) => a + b)).to.be.closeTo(1, 1e-5);
    }
});"""


def make_collection(openapi: JsonObject) -> JsonObject:
    """Return a Postman collection with a request for each example of an OpenAPI description."""
    items = []
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            ((media_type, content),) = operation["responses"]["200"]["content"].items()
            if "requestBody" in operation:
                body = operation["requestBody"]["content"]["application/json"]
                for name, example in body["examples"].items():
                    received = content["examples"][name]["value"]
                    text = json.dumps(received, separators=(",", ":"), ensure_ascii=False)
                    title = f"{operation['summary']}: {example['summary']}"
                    items.append(make_item(title, method, path, media_type, text, example["value"]))
            else:
                text = content["example"]
                items.append(make_item(operation["summary"], method, path, media_type, text))
    info = openapi["info"]
    script = {"type": "text/javascript", "exec": POSTMAN_TEST.split("\n")}
    return {
        "info": {
            "name": info["title"],
            "description": f"{info['description']} Set the variable baseUrl to the service's URL.",
            "schema": POSTMAN_SCHEMA,
        },
        "item": items,
        "event": [{"listen": "test", "script": script}],
        "variable": [{"key": "baseUrl", "value": "http://localhost:3000"}],
    }


def make_item(
    name: str, method: str, path: str, media_type: str, received: str, sent: Any = None
) -> JsonObject:
    """Return one request of a Postman collection, with its saved response."""
    url = {"raw": f"{{{{baseUrl}}}}{path}", "host": ["{{baseUrl}}"], "path": [path[1:]]}
    request: JsonObject = {"method": method.upper(), "header": [], "url": url}
    if sent is not None:
        request["header"] = [{"key": key, "value": value} for key, value in JSON_HEADERS.items()]
        text = json.dumps(sent, indent=2, ensure_ascii=False)
        language = {"raw": {"language": "json"}}
        request["body"] = {"mode": "raw", "raw": text, "options": language}
    response = {
        "name": name,
        "originalRequest": request,
        "status": "OK",
        "code": 200,
        "_postman_previewlanguage": media_type.split("/")[1],
        "header": [{"key": "Content-Type", "value": media_type}],
        "body": received,
    }
    return {"name": name, "request": request, "response": [response]}


# ---- CSV scripts ---------------------------------------------------------------------------

PYTHON_SCRIPT = Template("""\
# Add a column with the predicted class to a CSV.
import pandas as pd
import requests

url = "http://localhost:3000"
info = requests.get(f"{url}/static/model-info.json").json()
names = [feature["name"] for feature in info["features"]]
table = pd.read_csv("%data")
# In the order of the API's fields.
columns = %columns
samples = table[columns].set_axis(names, axis=1)%null
predicted = []
for start in range(0, len(samples), %batch_size):  # this many fit in a body
    batch = samples[start : start + %batch_size].to_dict("records")
    response = requests.post(f"{url}/predict", json=batch)
    response.raise_for_status()
    predicted += [info["classes"][int(label)] for label in response.json()["return"]]
table["predicted"] = predicted
table.to_csv("predicted.csv", index=False)
""")
R_SCRIPT = Template("""\
# Add a column with the predicted class to a CSV.
library(httr2) # and jsonlite

url <- request("http://localhost:3000")
info <- resp_body_json(req_perform(req_url_path(url, "static/model-info.json")))
table <- read.csv("%data", check.names = FALSE)
# In the order of the API's fields.
columns <- c(%columns_in_r)
samples <- setNames(table[columns], sapply(info$features, function(feature) feature$name))
starts <- seq(1, nrow(table), by = %batch_size) # this many fit in a body
for (start in starts) {
  rows <- start:min(start + %batch_size - 1, nrow(table))
  batch <- req_url_path(url, "predict") |> req_body_json(samples[rows, ]%null)
  labels <- as.integer(unlist(resp_body_json(req_perform(batch))$return))
  table[rows, "predicted"] <- unlist(info$classes)[labels + 1]
}
write.csv(table, "predicted.csv", row.names = FALSE)
""")


def write_script(script: Template, null: str, batch_size: int, columns: list[str]) -> bytes:
    """Return a script for DATA that sends `batch_size` samples per request.

    `columns` are the features' columns in DATA, and `null` is code that converts missing values.
    """
    in_python = json.dumps(columns, ensure_ascii=False)
    text = script.substitute(
        data=schema.DATA,
        batch_size=batch_size,
        columns=in_python,
        columns_in_r=in_python[1:-1],
        null=null if any(field.is_optional for field in FIELDS) else "",
    )
    return text.encode()


# ---- The demo page -------------------------------------------------------------------------


def training_data(samples: Array, classes: Array) -> bytes:
    """Return DATA as a JSON array, one sample with its class per line: /predict accepts this."""
    rows = [
        json.dumps(to_object(sample) | {schema.CLASS: CLASSES[index]}, ensure_ascii=False)
        for sample, index in zip(samples, classes, strict=True)
    ]
    return ("[\n" + ",\n".join(rows) + "\n]\n").encode()


def model_info(
    service: ModuleType,
    classifier: XGBClassifier,
    example: JsonObject,
    samples: Array,
    classes: Array,
) -> JsonObject:
    """Return what the demo page shows and what identifies the model."""
    model = service.model
    gains = model.booster.get_score(importance_type="total_gain")
    sum_of_gains = sum(gains.values()) or 1
    edges_by_feature = model.find_edges(model.booster)
    _, n_trees = model.read_splits(model.booster)
    features = []
    for column, field in enumerate(FIELDS):
        low, high = field.minimum, field.maximum
        values = samples[:, column]
        if schema.PUBLISH_DATA:
            known = values[~np.isnan(values)]
            data_low, data_high = round_outward(known.min(), known.max(), field.is_integer)
            low, high = max(low, data_low), min(high, data_high)
        label, unit = split_label(schema.Sample.__struct_fields__[column], field.description)
        edges = edges_by_feature.get(column, np.empty(0))
        features.append(
            {
                "name": field.name,
                "label": label,
                "unit": unit,
                "minimum": low,
                "maximum": high,
                "step": 1 if field.is_integer else find_step(low, high),
                "integer": field.is_integer,
                "optional": field.is_optional,
                "distinct": len(np.unique(values)) if schema.PUBLISH_DATA else None,
                "importance": round(gains.get(field.name, 0) / sum_of_gains, 6),
                # As 0.8, not as 0.800000011920929: the page compares them with values such as 0.8.
                # An optional feature also has infinity as an edge, which is left out.
                "thresholds": [float(str(value)) for value in edges if np.isfinite(value)],
            }
        )
    return {
        "title": schema.TITLE,
        "description": schema.DESCRIPTION,
        "sample": SAMPLE_NAME,
        "class": schema.CLASS,
        "features": features,
        "classes": CLASSES,
        "example": example,
        "samples": len(samples) if schema.PUBLISH_DATA else None,
        "data": "training-data.json" if schema.PUBLISH_DATA else None,
        "mistake": find_mistake(classifier, samples, classes) if schema.PUBLISH_DATA else None,
        "model": {
            "file": model.PATH.name,
            "sha256": model.digest(),
            "schema": digest_schema(),
            "xgboost": __version__,
            "trees": n_trees,
            "table": model.fits_table(model.booster),
        },
    }


def find_step(low: float, high: float) -> float:
    """Return a slider's step: the largest power of ten that is at most 1/25 of a range."""
    return to_readable(10.0 ** math.floor(math.log10((high - low) / 25)))  # 1 rather than 1.0


def split_label(field_name: str, description: str) -> tuple[str, str]:
    """Return a field's label and its unit.

    For example, "petal_width_cm" and "in cm" become "petal width" and "cm".
    """
    unit = description.removeprefix("in ")
    label = field_name.strip("_").replace("_", " ")
    return label.removesuffix(f" {unit.lower()}"), unit


def find_mistake(classifier: XGBClassifier, samples: Array, classes: Array) -> JsonObject | None:
    """Return the sample of DATA that is misclassified with the most confidence, or None."""
    probabilities = classifier.predict_proba(samples)
    predicted = probabilities.argmax(axis=1)
    confidence = np.where(predicted == classes, 0, probabilities.max(axis=1))
    index = confidence.argmax()
    if confidence[index] == 0:
        return None
    return {
        "class": CLASSES[classes[index]],
        "predicted": CLASSES[predicted[index]],
        "probability": float(confidence[index]),
        "sample": to_object(samples[index]),
    }


# ---- The tests -----------------------------------------------------------------------------


def expected_predictions(classifier: XGBClassifier, examples: Array) -> list[JsonObject]:
    """Return samples with what plain XGBoost predicts for them.

    They are the two examples, and copies of the first with one feature at its minimum, at its
    maximum or, if it is optional, missing.
    """
    samples = [*examples]
    for column, field in enumerate(FIELDS):
        low, high = allowed_limits(field)
        for value in [low, high, np.nan] if field.is_optional else [low, high]:
            sample = examples[0].copy()
            sample[column] = value
            samples.append(sample)
    probabilities = classifier.predict_proba(np.array(samples))
    predicted = probabilities.argmax(axis=1)
    return [
        {"sample": to_object(sample), "class": int(index), "probabilities": row.tolist()}
        for sample, index, row in zip(samples, predicted, probabilities, strict=True)
    ]


# ---- README --------------------------------------------------------------------------------


def update_readme(
    service: ModuleType,
    example: JsonObject,
    other: JsonObject,
    data: bytes | None,
    n_samples: int,
    accuracy: str,
) -> bytes:
    """Return README with its marked blocks replaced; raise SystemExit unless each occurs once."""
    text = (ROOT / "README.md").read_text("utf-8")
    for name, content in {
        "title": f"# {schema.TITLE}\n\n{schema.DESCRIPTION}",
        "usage": usage_block(service, example, data),
        "fetch": fetch_block(service, example),
        "api": api_block(service, example, other),
        "model": model_block(service, n_samples, accuracy),
    }.items():
        start, end = f"<!-- generated: {name} -->\n", f"\n<!-- end of {name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise SystemExit(f"README.md must contain the generated block '{name}' exactly once.")
        before, rest = text.split(start)
        after = rest.split(end)[1]
        text = f"{before}{start}{content}{end}{after}"
    return text.encode()


def code_block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def usage_block(service: ModuleType, example: JsonObject, data: bytes | None) -> str:
    response = call(service, "/predict", json=example).text
    probabilities = call(service, "/predict_proba", json=example).text
    labels = [f"`{index}` for {name}" for index, name in enumerate(CLASSES)]
    many = ""
    if data and len(data) <= service.body_reader.limit:
        many = ' `-d "@static/training-data.json"` sends all the data as an array.'
    return "\n\n".join(
        [
            f"`static/example.json` contains one {SAMPLE_NAME}:",
            code_block("json", json.dumps(example, ensure_ascii=False)),
            f"The response, `{response}`, is the {SAMPLE_NAME}'s class: {', '.join(labels[:-1])} "
            f"or {labels[-1]}.{many} `/predict_proba` returns the probabilities:",
            code_block("json", probabilities),
        ]
    )


def fetch_block(service: ModuleType, example: JsonObject) -> str:
    label = json.loads(call(service, "/predict", json=example).text)["return"]
    return code_block(
        "js",
        'const response = await fetch("http://localhost:3000/predict", {\n'
        '  method: "POST",\n'
        '  headers: { "Content-Type": "application/json" },\n'
        f"  body: JSON.stringify({json.dumps(example, ensure_ascii=False)}),\n"
        "});\n"
        "if (!response.ok) throw new Error(await response.text());\n"
        f'console.log(await response.json()); // {{ return: "{label}" }}',
    )


def api_block(service: ModuleType, example: JsonObject, other: JsonObject) -> str:
    hello = call(service, "/", method="GET").text
    label = call(service, "/predict", json=example).text
    labels = call(service, "/predict", json=[example, other]).text
    probabilities = ",".join(f'"{name}":…' for name in CLASSES[:3])
    if len(CLASSES) > 3:
        probabilities += ",…"
    invalid = example.copy()
    invalid.popitem()
    # The error's pointer shows the invalid object's index.
    error = call(service, "/predict", 422, json=[example] * 17 + [invalid]).text
    reader = service.body_reader
    room = f"at least {samples_per_body(service):,} {SAMPLE_NAME}s fit if the JSON has no spaces"
    return f"""\
| Request | Response |
|---|---|
| `GET /` | `{hello}`, while the service is up |
| `POST /predict`, one {SAMPLE_NAME} | `{label}` |
| `POST /predict`, an array | `{labels}`, in the same order |
| `POST /predict_proba`, either | `{{"return":{{{probabilities}}}}}`, or an array of these |

Each {SAMPLE_NAME} is a JSON object with {list_fields()}; other fields are ignored. Errors are
`application/problem+json` (RFC 9457) and say what is wrong:

| Status | Reason |
|---|---|
| 400 | the body is not JSON in UTF-8 (JSON has no `NaN`), is nested too deeply, or is incomplete |
| 404, 405 | there is no such path, or the path does not allow the method |
| 413 | the body is longer than {format_bytes(reader.limit)} ({room}) |
| 415 | the Content-Type is not `application/json` or `…+json`, or there is a Content-Encoding |
| 422 | a field is missing, or a value is invalid: `errors` lists each one, up to {MAX_ERRORS} |
| 503 | too many requests over {format_bytes(reader.small)} are in progress: see `Retry-After` |

{code_block("json", error)}"""


def list_fields() -> str:
    """Return the fields in words, or where they are listed if there are too many."""
    if len(NAMES) > 8:
        return f"the {len(NAMES)} fields that `static/openapi.json` lists"
    expectations = {field.expectation() for field in FIELDS}
    if len(expectations) > 1:
        return ", ".join(f"`{field.name}` ({field.expectation()})" for field in FIELDS)
    *first, last = (f"`{name}`" for name in NAMES)
    return f"the fields {', '.join(first)} and {last}, each {expectations.pop()}"


def model_block(service: ModuleType, n_samples: int, accuracy: str) -> str:
    model = service.model
    predictions = "XGBoost for each sample, because a lookup table would be too large"
    if model.fits_table(model.booster):
        sizes = [len(edges) + 1 for edges in model.find_edges(model.booster).values()]
        product = " × ".join(map(str, sizes))  # noqa: RUF001
        predictions = (
            f"a lookup table (see CONTRIBUTING.md) of {product} = {math.prod(sizes):,} cells"
        )
    return "\n".join(
        [
            f"- current model: `model/{model.PATH.name}`, SHA-256 {model.digest()[:12]}…",
            f"- data: `{schema.DATA}`, {n_samples:,} samples",
            f"- {accuracy}",
            f"- predictions from {predictions}",
        ]
    )

import io
import json
import math
import runpy
import socket
import sys
import time
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient
from werkzeug.serving import BaseWSGIServer

import model
import request_body
import run
import settings
import validation
from schema import Sample
from tests.samples import (
    BODY,
    CLASSES,
    FIRST,
    INVALID_JSON,
    INVALID_SAMPLES,
    LABEL,
    LAST,
    OTHER,
    OTHER_LABEL,
    OTHER_PROBABILITIES,
    PREDICTIONS,
    PROBABILITIES,
    RESPONSE,
    SAMPLE,
    change,
    to_label,
    to_probabilities,
    to_response,
)
from tests.service import ROOT

LIMIT = run.app.config["MAX_CONTENT_LENGTH"]
SMALL = run.body_reader.small


def assert_is_problem(response: Any, status: int) -> dict[str, Any]:
    """Assert that an error is one of ours and return its body."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    problem = response.get_json(force=True)
    assert problem["status"] == status
    assert problem["title"] and problem["detail"]
    return problem


@pytest.mark.parametrize(("method", "text"), [("GET", "hello!!"), ("HEAD", "")])
def test_health_check_says_hello(client: FlaskClient, method: str, text: str) -> None:
    response = client.open("/", method=method)
    assert (response.status_code, response.text) == (200, text)


BODIES = {
    "one": (BODY, RESPONSE),
    "array": (b"[%b, %b]" % (BODY, json.dumps(OTHER).encode()), to_response(LABEL, OTHER_LABEL)),
    "empty-array": (b"[]", b'{"return":[]}'),
    "unknown-fields": (change(note={"deep": [["ü"]]}, **{f"{FIRST}InMm": 59}), RESPONSE),
    "whitespace": (b" \r\n\t" + BODY + b"\n", RESPONSE),
    "byte-order-mark": (b"\xef\xbb\xbf" + BODY, RESPONSE),  # as Windows PowerShell writes it
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_predict_returns_classes(client: FlaskClient, body: bytes, expected: bytes) -> None:
    response = client.post("/predict", data=body, content_type="application/json")
    assert (response.status_code, response.data) == (200, expected)
    assert response.content_type == "application/json"


def test_predict_returns_plain_xgboosts_classes(client: FlaskClient) -> None:
    expected = [to_label(prediction) for prediction in PREDICTIONS]
    samples = [prediction["sample"] for prediction in PREDICTIONS]
    assert client.post("/predict", json=samples).json["return"] == expected
    for sample, label in zip(samples, expected, strict=True):
        assert client.post("/predict", json=sample).json == {"return": label}


def test_predict_proba_returns_plain_xgboosts_probabilities(client: FlaskClient) -> None:
    samples = [prediction["sample"] for prediction in PREDICTIONS]
    returned = client.post("/predict_proba", json=samples).json["return"]
    for probabilities, prediction in zip(returned, PREDICTIONS, strict=True):
        assert list(probabilities) == list(CLASSES)
        assert probabilities == pytest.approx(to_probabilities(prediction), abs=1e-6)
    for sample, probabilities in zip(samples, returned, strict=True):
        assert client.post("/predict_proba", json=sample).json == {"return": probabilities}


def test_predict_proba_returns_an_array_in_order(client: FlaskClient) -> None:
    many = client.post("/predict_proba", json=[OTHER, SAMPLE]).json["return"]
    assert many[0] == pytest.approx(OTHER_PROBABILITIES, abs=1e-6)
    assert many[1] == pytest.approx(PROBABILITIES, abs=1e-6)
    assert client.post("/predict_proba", json=[]).json == {"return": []}


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON)
def test_invalid_json_returns_400(client: FlaskClient, path: str, body: bytes) -> None:
    response = client.post(path, data=body, content_type="application/json")
    problem = assert_is_problem(response, 400)
    assert problem["detail"].startswith("The body is not JSON in UTF-8: ")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a": NaN}', "found NaN at /a (byte 6)"),
        (b'[{"a": 1}, {"b/c": -Infinity}]', "found Infinity at /1/b~1c (byte 20)"),
        (b'[{"a": NaN}]', "found NaN at /0/a (byte 7)"),
        (b"[1, NaN]", "found NaN (byte 4)"),
        (b'{"note": {"a": NaN}}', "found NaN (byte 15)"),
        (b'[{"a": 1, "note": {"b": NaN}}]', "found NaN (byte 24)"),
        (b"NaN", "found NaN (byte 0)"),
    ],
    ids=["sample", "second-sample", "first-sample", "array", "note", "note-in-array", "alone"],
)
def test_nan_is_located(client: FlaskClient, body: bytes, reason: str) -> None:
    response = client.post("/predict", data=body, content_type="application/json")
    problem = assert_is_problem(response, 400)
    assert problem["detail"] == f"The body is not JSON in UTF-8: {reason}."


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
@pytest.mark.parametrize(("body", "errors"), INVALID_SAMPLES.values(), ids=INVALID_SAMPLES)
def test_invalid_samples_return_422_with_each_error(
    client: FlaskClient, path: str, body: bytes, errors: list[dict[str, str]]
) -> None:
    response = client.post(path, data=body, content_type="application/json")
    assert assert_is_problem(response, 422)["errors"] == errors


@pytest.mark.parametrize(("wrong", "more"), [(100, False), (101, True)])
def test_errors_are_listed_up_to_a_hundred(client: FlaskClient, wrong: int, more: bool) -> None:
    samples = [SAMPLE | {LAST: ""}] * wrong
    problem = assert_is_problem(client.post("/predict", json=samples), 422)
    assert len(problem["errors"]) == 100
    assert problem["errors"][-1]["pointer"] == f"/99/{LAST}"
    assert ("Only the first 100 are listed." in problem["detail"]) == more


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded"]
)
def test_other_content_type_returns_415(client: FlaskClient, content_type: str | None) -> None:
    response = client.post("/predict", data=BODY, content_type=content_type)
    problem = assert_is_problem(response, 415)
    assert "Content-Type: application/json" in problem["detail"]


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/ld+json"]
)
def test_json_content_type_variants_are_accepted(client: FlaskClient, content_type: str) -> None:
    assert client.post("/predict", data=BODY, content_type=content_type).data == RESPONSE


@pytest.mark.parametrize(
    "path", ["/nowhere", "/predict/", "/static/nothing.html", "/static/../run.py"]
)
def test_unknown_path_returns_404(client: FlaskClient, path: str) -> None:
    assert_is_problem(client.get(path), 404)
    assert_is_problem(client.post(path, json=SAMPLE), 404 if "static" not in path else 405)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", {"POST", "OPTIONS"}),
        ("PUT", "/predict_proba", {"POST", "OPTIONS"}),
        ("POST", "/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_wrong_method_returns_405_with_allowed_methods(
    client: FlaskClient, method: str, path: str, allowed: set[str]
) -> None:
    response = client.open(path, method=method)
    problem = assert_is_problem(response, 405)
    assert response.allow.as_set() == {method.lower() for method in allowed}
    assert problem["detail"] == (
        f"{path} allows {', '.join(sorted(allowed))} (not {method}). See the demo page at "
        "/static/index.html or the OpenAPI description at /static/openapi.json."
    )


def test_body_over_the_limit_returns_413(client: FlaskClient) -> None:
    full = BODY.ljust(LIMIT)
    assert client.post("/predict", data=full, content_type="application/json").status_code == 200
    response = client.post("/predict", data=full + b" ", content_type="application/json")
    assert assert_is_problem(response, 413)["detail"] == f"The body is longer than {LIMIT} bytes."


class Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError


@pytest.mark.parametrize(
    ("stream", "detail"),
    [
        (
            io.BytesIO(BODY),
            f"The body is incomplete: received {len(BODY)} of the 1000 bytes declared in "
            "Content-Length.",
        ),
        (Broken(), "The body is incomplete or has a malformed chunk: ConnectionResetError."),
    ],
)
def test_incomplete_body_returns_400(client: FlaskClient, stream: io.BytesIO, detail: str) -> None:
    response = client.post(
        "/predict",
        input_stream=stream,
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "1000"},
    )
    assert assert_is_problem(response, 400)["detail"] == detail


@pytest.mark.parametrize(
    ("body", "status"),
    [(BODY, 200), (BODY.ljust(SMALL), 200), (BODY.ljust(LIMIT), 200), (BODY.ljust(LIMIT + 1), 413)],
)
def test_chunked_body_is_limited(client: FlaskClient, body: bytes, status: int) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    stream = io.BytesIO(body)
    response = client.post("/predict", input_stream=stream, headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("limit", "length", "status"),
    [(4_000, 4_000, 200), (4_000, 4_001, 413), (4_000, 2**15, 413), (2**25, 2**24 + 1, 200)],
)
def test_chunked_body_has_the_limit_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, limit: int, length: int, status: int
) -> None:
    monkeypatch.setenv("FLASK_MAX_CONTENT_LENGTH", str(limit))
    client = runpy.run_path(str(ROOT / "run.py"))["app"].test_client()
    headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    stream = io.BytesIO(BODY.ljust(length))
    response = client.post("/predict", input_stream=stream, headers=headers)
    assert response.status_code == status
    assert stream.tell() <= limit + 1  # nothing is read beyond it


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_encoded_body_returns_415(client: FlaskClient, encoding: str) -> None:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    problem = assert_is_problem(client.post("/predict", data=b"\x1f\x8b", headers=headers), 415)
    assert problem["detail"] == "Send the body without a Content-Encoding."


@pytest.mark.parametrize("path", ["/predict/", "/nope"])
def test_preflight_of_unknown_path_succeeds(client: FlaskClient, path: str) -> None:
    headers = {
        "Origin": "https://any.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = client.options(path, headers=headers)
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert preflight.headers["Access-Control-Allow-Headers"] == "content-type"
    assert_is_problem(client.post(path, json=SAMPLE), 404)


def test_large_bodies_beyond_the_budget_return_503(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = BODY.ljust(SMALL + 1)
    size = int(run.body_reader.size_per_body * len(large))
    monkeypatch.setattr(run.body_reader, "reserved", run.body_reader.budget - size)
    with client.post("/predict", data=large, content_type="application/json") as answered:
        assert answered.status_code == 200
        refused = client.post("/predict", data=large, content_type="application/json")
        problem = assert_is_problem(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        assert problem["detail"] == "Too many large requests in progress; try again shortly."
        small = BODY.ljust(SMALL)
        served = client.post("/predict", data=small, content_type="application/json")
        assert served.data == RESPONSE
    with client.post("/predict", data=large, content_type="application/json") as answered:
        assert answered.status_code == 200


def test_rejected_large_requests_are_logged_once_per_ten_seconds_with_their_number(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run.body_reader, "reserved", run.body_reader.budget)
    monkeypatch.setattr(run.body_reader, "rejected", 0)
    monkeypatch.setattr(run.body_reader, "warned_at", float("-inf"))
    seconds = [1000, 1001, 1009, 1010, 1011]
    monkeypatch.setattr(time, "monotonic", lambda: seconds.pop(0))
    for _ in range(5):
        response = client.post(
            "/predict", data=BODY.ljust(SMALL + 1), content_type="application/json"
        )
        assert response.status_code == 503
    message = "Too many large requests in progress: %d rejected with 503 since startup"
    assert caplog.messages == [message % 1, message % 4]


@pytest.mark.parametrize(
    ("per_body", "limit", "small"),
    [(0.1, 2**21, 2**14), (1.5, 2**21, 2**14), (3, 2**20, 2**13), (58, 54_236, 423)],
)
def test_body_limit_shrinks_with_longer_responses(per_body: float, limit: int, small: int) -> None:
    assert request_body.max_length(per_body) == limit
    reader = request_body.BodyReader(limit, per_body)
    assert reader.small == small
    assert reader.budget == 24 * 2**20  # the same memory for every schema


@pytest.mark.parametrize(("per_body", "largest"), [(9, 2_796_202), (58, 433_893)])
def test_limit_beyond_the_budget_fails_at_startup(per_body: float, largest: int) -> None:
    request_body.BodyReader(largest, per_body)
    with pytest.raises(SystemExit) as failure:
        request_body.BodyReader(largest + 1, per_body)
    assert failure.value.code == (
        f"FLASK_MAX_CONTENT_LENGTH must be at most {largest} for this schema, not {largest + 1}: "
        "the response to a longer body would exceed the memory budget."
    )


@pytest.mark.parametrize("is_optional", [False, True], ids=["required", "optional"])
def test_null_becomes_nan(monkeypatch: pytest.MonkeyPatch, is_optional: bool) -> None:
    fields = [field._replace(is_optional=is_optional) for field in validation.FIELDS]
    monkeypatch.setattr(validation, "FIELDS", fields)
    sample = Sample(*[None if is_optional else 1.5] * len(fields))
    (values,) = validation.to_array([sample])
    assert [math.isnan(value) for value in values] == [is_optional] * len(fields)


def test_internal_error_is_logged_but_not_shown(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(sample: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(model, "predict", predict)
    response = client.post("/predict", json=SAMPLE)
    assert_is_problem(response, 500)
    assert "secret" not in response.text
    assert "RuntimeError: secret" in caplog.text


def test_any_origin_is_allowed_by_default(client: FlaskClient) -> None:
    response = client.post("/predict", json=SAMPLE, headers={"Origin": "https://any.example"})
    assert response.headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert response.headers.getlist("Vary") == ["Origin"]
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
def test_preflight_succeeds_and_is_cached(client: FlaskClient, path: str) -> None:
    response = client.options(
        path,
        headers={
            "Origin": "https://any.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert response.headers["Access-Control-Allow-Headers"] == "content-type"
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert response.headers["Access-Control-Max-Age"] == "7200"


def started(monkeypatch: pytest.MonkeyPatch, **env: str) -> FlaskClient:
    """Return a client of a service that starts with these variables of the environment."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(ROOT / "run.py"))["app"].test_client()


@pytest.mark.parametrize(
    "origins",
    [
        '["https://one.example", "http://[::1]:5173"]',
        "https://one.example,http://[::1]:5173",
        " https://one.example , http://[::1]:5173 ",
        "HTTPS://One.Example,http://[::1]:5173",
    ],
)
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://one.example", True),
        ("http://[::1]:5173", True),
        ("https://two.example", False),
        ("http://one.example", False),
        ("https://one.example:8443", False),
        ("https://xone.example", False),
        ("https://one-example", False),
        ("https://one.example.evil.example", False),
        ("http://1:5173", False),
        ("null", False),
    ],
)
def test_cors_origins_allow_only_those_origins(
    monkeypatch: pytest.MonkeyPatch, origins: str, origin: str, allowed: bool
) -> None:
    client = started(monkeypatch, FLASK_CORS_ORIGINS=origins)
    headers = client.get("/", headers={"Origin": origin}).headers
    assert headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
    assert headers.getlist("Vary") == ["Origin"]


@pytest.mark.parametrize(
    ("origin", "sent_by_browsers"),
    [
        ("https://a.example:443", "https://a.example"),
        ("https://a.example:80", "https://a.example:80"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:08080", "http://a.example:8080"),
        ("HTTPS://A.Example", "https://a.example"),
        ("http://[0:0:0:0:0:0:0:1]:5173", "http://[::1]:5173"),
        ("http://[2001:DB8:0:0::1]", "http://[2001:db8::1]"),
        ("http://127.1", "http://127.0.0.1"),
        ("http://0x7f.1:80", "http://127.0.0.1"),
        ("http://app1.example", "http://app1.example"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_origin_is_matched_as_browsers_send_it(
    monkeypatch: pytest.MonkeyPatch, origin: str, sent_by_browsers: str
) -> None:
    client = started(monkeypatch, FLASK_CORS_ORIGINS=origin)
    headers = client.get("/", headers={"Origin": sent_by_browsers}).headers
    assert headers.get("Access-Control-Allow-Origin") == sent_by_browsers


@pytest.mark.parametrize("origins", ["*", '["*"]', "https://one.example,*"])
def test_star_allows_every_origin(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    client = started(monkeypatch, FLASK_CORS_ORIGINS=origins)
    headers = client.get("/", headers={"Origin": "https://any.example"}).headers
    assert headers["Access-Control-Allow-Origin"] == "https://any.example"


@pytest.mark.parametrize(
    ("origins", "wrong"),
    [
        ("https://*.example.com", "'https://*.example.com'"),
        ("null", "None"),
        ('"null"', "'null'"),
        ("https://one.example/", "'https://one.example/'"),
        ("one.example", "'one.example'"),
        ("https://one.example;https://two.example", "'https://one.example;https://two.example'"),
        ("https://one.example https://two.example", "'https://one.example https://two.example'"),
        ("https://one.example,", "''"),
        ("", "''"),
        ("[]", "[]"),
        ('["https://one.example", 5]', "5"),
        ("true", "True"),
        ("http://a.example:99999", "'http://a.example:99999'"),
        ("http://1.2.3.256", "'http://1.2.3.256'"),
        ("http://[1::2::3]", "'http://[1::2::3]'"),
        ("http://[::ffff:7f00:1]", "'http://[::ffff:7f00:1]'"),
        ("https://", "'https://'"),
        ("http://a.example?", "'http://a.example?'"),
    ],
)
def test_invalid_origin_fails_at_startup(
    monkeypatch: pytest.MonkeyPatch, origins: str, wrong: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, FLASK_CORS_ORIGINS=origins)
    assert ended.value.code == (
        f"Each origin in FLASK_CORS_ORIGINS must be * or scheme://host[:port], not {wrong}."
    )


def test_credentials_are_allowed_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"FLASK_CORS_ORIGINS": "https://one.example", "FLASK_CORS_SUPPORTS_CREDENTIALS": "true"}
    headers = (
        started(monkeypatch, **env).get("/", headers={"Origin": "https://one.example"}).headers
    )
    assert headers["Access-Control-Allow-Credentials"] == "true"


def test_max_content_length_sets_the_body_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    client = started(monkeypatch, FLASK_MAX_CONTENT_LENGTH="100")
    for length, status in [(100, 400), (101, 413)]:
        body = " " * length
        answer = client.post("/predict", data=body, content_type="application/json")
        assert answer.status_code == status


def test_error_headers_are_exposed_to_other_origins(
    client: FlaskClient,
) -> None:
    headers = client.get("/predict", headers={"Origin": "https://any.example"}).headers
    assert headers["Access-Control-Expose-Headers"] == "Allow, Retry-After"


@pytest.mark.parametrize("prefix", ["", "/iris"])
def test_unknown_path_names_the_demo_page(client: FlaskClient, prefix: str) -> None:
    answer = client.get("/nowhere", base_url=f"http://localhost{prefix}")
    assert assert_is_problem(answer, 404)["detail"] == (
        f"No such path. See the demo page at {prefix}/static/index.html "
        f"or the OpenAPI description at {prefix}/static/openapi.json."
    )


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"FLASK_MAX_CONTENT_LENGTH": "1MB"},
            "FLASK_MAX_CONTENT_LENGTH must be 1 or more bytes, not '1MB'.",
        ),
        (
            {"FLASK_MAX_CONTENT_LENGTH": "0"},
            "FLASK_MAX_CONTENT_LENGTH must be 1 or more bytes, not 0.",
        ),
        ({"PORT": "http"}, "PORT must be a number from 1 to 65535, not 'http'."),
        ({"PORT": "70000"}, "PORT must be a number from 1 to 65535, not '70000'."),
        ({"PORT": "0"}, "PORT must be a number from 1 to 65535, not '0'."),
        ({"PORT": "٣"}, "PORT must be a number from 1 to 65535, not '٣'."),
        (
            {"FLASK_CORS_SUPPORTS_CREDENTIALS": "no"},
            "FLASK_CORS_SUPPORTS_CREDENTIALS must be true or false, not 'no'.",
        ),
    ],
)
def test_invalid_environment_fails_at_startup(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], message: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    assert ended.value.code == message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("FLASK_CORS_ORIGIN", "FLASK_CORS_ORIGINS"),
        ("FLASK_CORS_ORIGIN__A", "FLASK_CORS_ORIGINS"),
        ("FLASK_cors_origins", "FLASK_CORS_ORIGINS"),
        ("flask_cors_origins", "FLASK_CORS_ORIGINS"),
        ("FLASK_CROS_ORIGINS", "FLASK_CORS_ORIGINS"),
        ("FLASK_ORIGINS", "FLASK_CORS_ORIGINS"),
        ("FLASK_CORS_CREDENTIALS", "FLASK_CORS_SUPPORTS_CREDENTIALS"),
        ("FLASK_MAX_CONTENT_LENGHT", "FLASK_MAX_CONTENT_LENGTH"),
    ],
)
def test_misspelled_variable_fails_at_startup(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, **{name: "https://one.example"})
    assert ended.value.code == f"{name} is not a setting. Did you mean {nearest}?"


@pytest.mark.parametrize(
    "name",
    [
        "FLASK_APP",
        "FLASK_ENV",
        "FLASK_RUN_PORT",
        "FLASK_SKIP_DOTENV",
        "FLASK_SECRET_KEY",
        "FLASK_CORS_METHODS",
        "FLASK_SESSION_COOKIE_NAME",
        "FLASK_SOMETHING_ELSE",
    ],
)
def test_other_flask_variables_are_accepted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert started(monkeypatch, **{name: "POST"}).get("/").text == "hello!!"


@pytest.mark.parametrize(
    ("flask_debug", "debug"), [(None, False), ("0", False), ("no", False), ("1", True)]
)
def test_debugger_is_on_by_request_and_on_loopback_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flask_debug: str | None,
    debug: bool,
) -> None:
    if flask_debug is None:
        monkeypatch.delenv("FLASK_DEBUG", raising=False)
    else:
        monkeypatch.setenv("FLASK_DEBUG", flask_debug)
    monkeypatch.delenv("PORT", raising=False)
    served: list[tuple[str, int, bool]] = []

    def run_debugger(app: flask.Flask, host: str, port: int) -> None:
        served.append((host, port, app.debug))

    def start_server(server: BaseWSGIServer, host: str, port: int, *args: Any) -> None:
        served.append((host, port, args[0].debug))

    monkeypatch.setattr(flask.Flask, "run", run_debugger)
    monkeypatch.setattr(BaseWSGIServer, "__init__", start_server)
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", lambda server: None)
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    shown = "127.0.0.1" if debug else "localhost"
    assert f"http://{shown}:3000/static/index.html" in capsys.readouterr().out
    monkeypatch.setenv("PORT", "3001")
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    host = "127.0.0.1" if debug else settings.wildcard_address()
    assert served == [(host, 3000, debug), (host, 3001, debug)]


@pytest.mark.parametrize("host", ["127.0.0.1", settings.wildcard_address()])
def test_development_server_accepts_ipv4_connections(host: str) -> None:
    server = run.Server(host, 0, run.app)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5):
        server.server_close()


@pytest.mark.parametrize(
    ("modules", "warnings"),
    [
        pytest.param({"gunicorn.arbiter": None}, 1, id="gunicorn without its configuration"),
        pytest.param({"gunicorn.arbiter": None, "gunicorn_worker": None}, 0, id="gunicorn"),
        pytest.param({}, 0, id="another server"),
    ],
)
def test_gunicorn_without_its_configuration_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    modules: dict[str, Any],
    warnings: int,
) -> None:
    for name in ("gunicorn.arbiter", "gunicorn_worker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    settings.check_server(run.app.logger)
    assert len(caplog.messages) == warnings


def test_development_log_shows_plain_ipv4_addresses() -> None:
    handler = run.RequestHandler.__new__(run.RequestHandler)  # without a connection to serve
    handler.client_address = ("::ffff:127.0.0.1", 3000)
    assert handler.address_string() == "127.0.0.1"


@pytest.mark.parametrize(
    ("ipv6_only", "wildcard", "addresses"),
    [
        pytest.param(0, "::", ["[::]:3000"], id="one socket for both"),
        pytest.param(1, "::", ["[::]:3000", "0.0.0.0:3000"], id="a socket for each"),
        pytest.param(None, "0.0.0.0", ["0.0.0.0:3000"], id="no IPv6"),
    ],
)
def test_wildcard_addresses_fit_the_system(
    monkeypatch: pytest.MonkeyPatch, ipv6_only: int | None, wildcard: str, addresses: list[str]
) -> None:
    class Socket(socket.socket):
        def __init__(self, family: int, kind: int = socket.SOCK_STREAM) -> None:
            if ipv6_only is None:
                raise OSError("Address family not supported by protocol")
            super().__init__()

        def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
            pass

        def getsockopt(self, level: int, option: int) -> int:  # type: ignore[override]
            return ipv6_only  # type: ignore[return-value]

    monkeypatch.setattr(socket, "socket", Socket)
    assert settings.wildcard_address() == wildcard
    assert settings.bind_addresses(3000) == addresses


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://localhost:3000/static/index.html"),
        ("::", "http://localhost:3000/static/index.html"),
        ("0.0.0.0", "http://localhost:3000/static/index.html"),
        ("127.0.0.1", "http://127.0.0.1:3000/static/index.html"),
        ("::1", "http://[::1]:3000/static/index.html"),
    ],
)
def test_page_url_fits_the_bind(host: str, url: str) -> None:
    assert settings.page_url(host, 3000) == url

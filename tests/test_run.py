import io
import json
import runpy
import socket
import time
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient
from werkzeug.serving import BaseWSGIServer

import model
import run
import settings
from request_body import SMALL
from tests import iris
from tests.iris import EXPECTED, FLOWER
from tests.service import ANSWER, ROOT, answer_of

FIRST, *_, LAST = FLOWER
ONE = json.dumps(FLOWER)
BOTH_ANSWERS = f'{{"return":["{iris.LABEL}","{iris.OTHER_LABEL}"]}}'.encode()
LIMIT = run.app.config["MAX_CONTENT_LENGTH"]


def changed(**fields: Any) -> bytes:
    return json.dumps(FLOWER | fields).encode()


def last(value: Any) -> bytes:
    return changed(**{LAST: value})


def raw(length: str) -> bytes:
    """The flower's last length as it is written, which need not be JSON."""
    return last("?").replace(b'"?"', length.encode())


NOT_JSON = [
    b"",
    b" ",
    b"hello",
    b"{",
    ONE[:-1].encode(),
    f"[{ONE},]".encode(),
    f"{ONE}x".encode(),
    f"{ONE}{ONE}".encode(),
    ONE.encode("utf-16"),
    b"\xef\xbb\xbf" * 2 + ONE.encode(),
    changed(note="ü").replace(b"\\u00fc", b"\xfc"),
    b'{"\xff": 1, ' + ONE[1:].encode(),
    raw("NaN"),
    raw("-Infinity"),
    raw("01.8"),
    raw("1."),
    raw("+1.8"),
    raw("0x1"),
    b"'{}'",
    b"NaN",
    b"1]",
    b'"a" b',
    b"nullx",
    b"4{",
    b"123\0",
    b"[" * 800_000,
    b"[" * 400_000 + b"]" * 400_000,
    b'{"a":' * 150_000,
    b'{"note": ' + b"[" * 400_000 + b"]" * 400_000 + b", " + ONE[1:].encode(),
    b'{"%b": "long", "note": ' % FIRST.encode() + b"[" * 400_000 + b"]" * 400_000 + b"}",
    b'{"%b": "long", and so on' % FIRST.encode(),
]

WRONG = [
    (b"{}", [(f"/{name}", f"{EXPECTED}nothing") for name in FLOWER]),
    (b"5", [("", "expected an object, got 5")]),
    (b"null", [("", "expected an object, got null")]),
    (b'"{}"', [("", 'expected an object, got "{}"')]),
    (f"[{ONE}, 1, [], null]".encode(), [
        ("/1", "expected an object, got 1"),
        ("/2", "expected an object, got []"),
        ("/3", "expected an object, got null"),
    ]),
    (last(None), [(f"/{LAST}", f"{EXPECTED}null")]),
    (last("1.8"), [(f"/{LAST}", f'{EXPECTED}"1.8"')]),
    (last(True), [(f"/{LAST}", f"{EXPECTED}true")]),
    (last([1.8]), [(f"/{LAST}", f"{EXPECTED}[1.8]")]),
    (last({}), [(f"/{LAST}", f"{EXPECTED}{{}}")]),
    (last(iris.TOO_SMALL), [(f"/{LAST}", f"{EXPECTED}{iris.TOO_SMALL}")]),
    (last(iris.TOO_GREAT), [(f"/{LAST}", f"{EXPECTED}{iris.TOO_GREAT}")]),
    (raw("1e39"), [(f"/{LAST}", f"{EXPECTED}1e39")]),
    (raw("1e400"), [(f"/{LAST}", f"{EXPECTED}1e400")]),
    (raw("9" * 5000), [(f"/{LAST}", f"{EXPECTED}{'9' * 40}")]),
    (changed(**{FIRST: -1_000_000, LAST: "ü"}), [
        (f"/{FIRST}", f"{EXPECTED}-1000000"),
        (f"/{LAST}", f'{EXPECTED}"\\u00fc"'),
    ]),
    (json.dumps([FLOWER] * 17 + [FLOWER | {LAST: ""}]).encode(), [
        (f"/17/{LAST}", f'{EXPECTED}""'),
    ]),
    (b'{"%b": true, ' % LAST.encode() + ONE[1:].encode(), [
        ("", f"Expected `float`, got `bool` - at `$.{LAST}`"),
    ]),
]  # fmt: skip


def assert_is_problem(response: Any, status: int) -> dict[str, Any]:
    """Assert that an error is one of ours and return its body."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    problem = response.get_json(force=True)
    assert problem["status"] == status
    assert problem["title"] and problem["detail"]
    return problem


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_health_check_says_hello(client: FlaskClient, method: str) -> None:
    response = client.open("/", method=method)
    assert (response.status_code, response.text) == (200, "hello!!" if method == "GET" else "")


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (ONE.encode(), ANSWER),
        (f"[{ONE}, {json.dumps(iris.OTHER)}]".encode(), BOTH_ANSWERS),
        (b"[]", b'{"return":[]}'),
        *((last(limit), answer_of(label)) for limit, label in iris.LABELS_AT_LIMITS.items()),
        (last(-0.0), answer_of(iris.LABELS_AT_LIMITS[0])),
        (changed(note={"deep": [["ü"]]}, **{f"{FIRST}InMm": 59}), ANSWER),
        (b" \r\n\t" + ONE.encode() + b"\n", ANSWER),
        (b"\xef\xbb\xbf" + ONE.encode(), ANSWER),  # as Windows PowerShell writes it
    ],
)
def test_flowers_have_their_classes(client: FlaskClient, body: bytes, answer: bytes) -> None:
    response = client.post("/predict", data=body, content_type="application/json")
    assert (response.status_code, response.data) == (200, answer)
    assert response.content_type == "application/json"


def test_flowers_have_their_probabilities(client: FlaskClient) -> None:
    one = client.post("/predict_proba", json=FLOWER).json
    many = client.post("/predict_proba", json=[iris.OTHER, FLOWER]).json
    assert list(one["return"]) == list(iris.PROBABILITIES)
    assert one["return"] == pytest.approx(iris.PROBABILITIES, abs=1e-6)
    assert many["return"][1] == one["return"]
    assert many["return"][0] == pytest.approx(iris.OTHER_PROBABILITIES, abs=1e-6)
    assert client.post("/predict_proba", json=[]).json == {"return": []}


def test_the_whole_dataset_is_one_request(client: FlaskClient) -> None:
    flowers = json.loads((ROOT / "static" / iris.DATA).read_text())
    assert len(flowers) == iris.SIZE
    species = [flower["species"] for flower in flowers]
    classes = client.post("/predict", json=flowers).json["return"]
    wrong = [i for i in range(iris.SIZE) if model.SPECIES[int(classes[i])] != species[i]]
    assert wrong == iris.WRONG_ANSWERS


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:30]))
def test_what_is_not_json_is_refused(client: FlaskClient, path: str, body: bytes) -> None:
    response = client.post(path, data=body, content_type="application/json")
    problem = assert_is_problem(response, 400)
    assert problem["detail"].startswith("The body is not JSON in UTF-8: ")


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
@pytest.mark.parametrize(("body", "errors"), WRONG, ids=lambda case: repr(case[:30]))
def test_every_wrong_field_is_named(
    client: FlaskClient, path: str, body: bytes, errors: list[tuple[str, str]]
) -> None:
    response = client.post(path, data=body, content_type="application/json")
    problem = assert_is_problem(response, 422)
    assert problem["errors"] == [
        {"pointer": pointer, "detail": detail} for pointer, detail in errors
    ]


@pytest.mark.parametrize(("wrong", "more"), [(100, False), (101, True)])
def test_errors_are_named_up_to_a_hundred(client: FlaskClient, wrong: int, more: bool) -> None:
    flowers = [FLOWER | {LAST: None}] * wrong
    problem = assert_is_problem(client.post("/predict", json=flowers), 422)
    assert len(problem["errors"]) == 100
    assert problem["errors"][-1]["pointer"] == f"/99/{LAST}"
    assert ("There are more than these 100." in problem["detail"]) == more


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded"]
)
def test_another_content_type_says_which_to_send(
    client: FlaskClient, content_type: str | None
) -> None:
    response = client.post("/predict", data=ONE, content_type=content_type)
    problem = assert_is_problem(response, 415)
    assert "Content-Type: application/json" in problem["detail"]


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/ld+json"]
)
def test_json_may_say_more_of_itself(client: FlaskClient, content_type: str) -> None:
    assert client.post("/predict", data=ONE, content_type=content_type).data == ANSWER


@pytest.mark.parametrize(
    "path", ["/nowhere", "/predict/", "/static/nothing.html", "/static/../run.py"]
)
def test_an_unknown_path_is_not_found(client: FlaskClient, path: str) -> None:
    assert_is_problem(client.get(path), 404)
    assert_is_problem(client.post(path, json=FLOWER), 404 if "static" not in path else 405)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", {"POST", "OPTIONS"}),
        ("PUT", "/predict_proba", {"POST", "OPTIONS"}),
        ("POST", "/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_says_what_is_allowed(
    client: FlaskClient, method: str, path: str, allowed: set[str]
) -> None:
    response = client.open(path, method=method)
    assert_is_problem(response, 405)
    assert response.allow.as_set() == {method.lower() for method in allowed}


def test_a_body_up_to_the_limit_is_read(client: FlaskClient) -> None:
    full = ONE.ljust(LIMIT)
    assert client.post("/predict", data=full, content_type="application/json").status_code == 200
    response = client.post("/predict", data=full + " ", content_type="application/json")
    assert assert_is_problem(response, 413)["detail"] == f"The body is longer than {LIMIT} bytes."


class Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError


@pytest.mark.parametrize(
    ("stream", "detail"),
    [
        (
            io.BytesIO(ONE.encode()),
            f"The body is incomplete: received {len(ONE)} of the 1000 bytes declared in "
            "Content-Length.",
        ),
        (Broken(), "The body is incomplete or has a malformed chunk: ConnectionResetError."),
    ],
)
def test_a_body_that_ends_early_is_refused(
    client: FlaskClient, stream: io.BytesIO, detail: str
) -> None:
    response = client.post(
        "/predict",
        input_stream=stream,
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "1000"},
    )
    assert assert_is_problem(response, 400)["detail"] == detail


@pytest.mark.parametrize(
    ("body", "status"),
    [(ONE, 200), (ONE.ljust(SMALL), 200), (ONE.ljust(LIMIT), 200), (ONE.ljust(LIMIT + 1), 413)],
)
def test_a_body_without_a_length_is_read(client: FlaskClient, body: str, status: int) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    stream = io.BytesIO(body.encode())
    response = client.post("/predict", input_stream=stream, headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("limit", "length", "status"),
    [(1_000, 1_000, 200), (1_000, 1_001, 413), (1_000, 2**15, 413), (2**25, 2**24 + 1, 200)],
)
def test_a_body_without_a_length_has_the_limit_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, limit: int, length: int, status: int
) -> None:
    monkeypatch.setenv("FLASK_MAX_CONTENT_LENGTH", str(limit))
    client = runpy.run_path(str(ROOT / "run.py"))["app"].test_client()
    headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    stream = io.BytesIO(ONE.ljust(length).encode())
    response = client.post("/predict", input_stream=stream, headers=headers)
    assert response.status_code == status
    assert stream.tell() <= limit + 1  # nothing is read beyond it


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_an_encoded_body_is_refused(client: FlaskClient, encoding: str) -> None:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    problem = assert_is_problem(client.post("/predict", data=b"\x1f\x8b", headers=headers), 415)
    assert problem["detail"] == "Send the body as it is, without a Content-Encoding."


@pytest.mark.parametrize("path", ["/predict/", "/nope"])
def test_a_browser_may_read_that_a_path_is_wrong(client: FlaskClient, path: str) -> None:
    headers = {
        "Origin": "https://any.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = client.options(path, headers=headers)
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert preflight.headers["Access-Control-Allow-Headers"] == "content-type"
    assert_is_problem(client.post(path, json=FLOWER), 404)


def test_large_bodies_are_refused_beyond_the_budget(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.body_reader, "reserved", run.body_reader.budget - 2**17)
    large = ONE.ljust(2**17)
    with client.post("/predict", data=large, content_type="application/json") as answered:
        assert answered.status_code == 200
        refused = client.post("/predict", data=large, content_type="application/json")
        problem = assert_is_problem(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        assert problem["detail"] == "Too many large requests in progress; try again shortly."
        assert client.post("/predict", json=FLOWER).data == ANSWER
    with client.post("/predict", data=large, content_type="application/json") as answered:
        assert answered.status_code == 200


def test_rejected_large_bodies_are_logged_once_per_ten_seconds_with_their_number(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run.body_reader, "reserved", run.body_reader.budget)
    monkeypatch.setattr(run.body_reader, "rejected", 0)
    monkeypatch.setattr(run.body_reader, "warned_at", float("-inf"))
    seconds = [1000, 1001, 1009, 1010, 1011]
    monkeypatch.setattr(time, "monotonic", lambda: seconds.pop(0))
    for _ in range(5):
        large = ONE.ljust(2**17)
        assert (
            client.post("/predict", data=large, content_type="application/json").status_code == 503
        )
    message = "Too many large requests in progress: %d rejected with 503 since the start"
    assert caplog.messages == [message % 1, message % 4]


def test_a_bug_reveals_nothing_of_itself(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(flower: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(model, "predict", predict)
    response = client.post("/predict", json=FLOWER)
    assert_is_problem(response, 500)
    assert "secret" not in response.text
    assert "RuntimeError: secret" in caplog.text


def test_any_origin_may_call(client: FlaskClient) -> None:
    response = client.post("/predict", json=FLOWER, headers={"Origin": "https://any.example"})
    assert response.headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert response.headers.getlist("Vary") == ["Origin"]
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("path", ["/predict", "/predict_proba"])
def test_a_preflight_is_answered_and_cached(client: FlaskClient, path: str) -> None:
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
def test_only_the_origins_of_the_environment_may_call(
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
def test_an_origin_is_matched_as_browsers_send_it(
    monkeypatch: pytest.MonkeyPatch, origin: str, sent_by_browsers: str
) -> None:
    client = started(monkeypatch, FLASK_CORS_ORIGINS=origin)
    headers = client.get("/", headers={"Origin": sent_by_browsers}).headers
    assert headers.get("Access-Control-Allow-Origin") == sent_by_browsers


@pytest.mark.parametrize("origins", ["*", '["*"]', "https://one.example,*"])
def test_a_star_allows_every_origin(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
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
def test_an_invalid_origin_aborts_startup(
    monkeypatch: pytest.MonkeyPatch, origins: str, wrong: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, FLASK_CORS_ORIGINS=origins)
    assert ended.value.code == (
        f"Each origin in FLASK_CORS_ORIGINS must be * or scheme://host[:port], not {wrong}."
    )


def test_pages_may_send_cookies_if_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"FLASK_CORS_ORIGINS": "https://one.example", "FLASK_CORS_SUPPORTS_CREDENTIALS": "true"}
    headers = (
        started(monkeypatch, **env).get("/", headers={"Origin": "https://one.example"}).headers
    )
    assert headers["Access-Control-Allow-Credentials"] == "true"


def test_the_environment_sets_the_limit_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    client = started(monkeypatch, FLASK_MAX_CONTENT_LENGTH="100")
    for length, status in [(100, 400), (101, 413)]:
        body = " " * length
        answer = client.post("/predict", data=body, content_type="application/json")
        assert answer.status_code == status


def test_pages_of_other_origins_may_read_what_an_error_says_in_its_head(
    client: FlaskClient,
) -> None:
    headers = client.get("/predict", headers={"Origin": "https://any.example"}).headers
    assert headers["Access-Control-Expose-Headers"] == "Allow, Retry-After"


@pytest.mark.parametrize("prefix", ["", "/iris"])
def test_an_unknown_path_leads_to_the_page(client: FlaskClient, prefix: str) -> None:
    answer = client.get("/nowhere", base_url=f"http://localhost{prefix}")
    assert assert_is_problem(answer, 404)["detail"] == (
        f"There is no such path. The page is {prefix}/static/index.html, "
        f"the OpenAPI description {prefix}/static/openapi.json."
    )


def test_a_flower_with_other_fields_than_the_model_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "N_FEATURES", 99)
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch)
    assert ended.value.code == (
        f"Flower in run.py has {len(FLOWER)} fields, but the model has 99 features."
    )


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"FLASK_MAX_CONTENT_LENGTH": "1MB"},
            "FLASK_MAX_CONTENT_LENGTH must be a number of bytes, not '1MB'.",
        ),
        (
            {"FLASK_MAX_CONTENT_LENGTH": "0"},
            "FLASK_MAX_CONTENT_LENGTH must be a number of bytes, not 0.",
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
def test_an_invalid_value_aborts_startup(
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
def test_a_misspelled_variable_aborts_startup(
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
def test_a_variable_that_others_may_read_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert started(monkeypatch, **{name: "POST"}).get("/").text == "hello!!"


@pytest.mark.parametrize(
    ("flask_debug", "debug"), [(None, False), ("0", False), ("no", False), ("1", True)]
)
def test_the_debugger_is_on_only_if_asked_and_only_here(
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


def test_the_log_of_flasks_server_shows_ipv4_addresses_without_a_prefix() -> None:
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
def test_the_service_listens_on_all_interfaces_of_the_system(
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
def test_the_page_url_names_the_host_that_the_server_listens_on(host: str, url: str) -> None:
    assert settings.page_url(host, 3000) == url

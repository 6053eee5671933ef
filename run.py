"""A small REST service around a trained classifier: samples in, their classes out."""

import codecs
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from flask import Flask, Response, abort, request, url_for
from flask.helpers import get_debug_flag
from flask_cors import CORS
from msgspec.structs import astuple
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

import model
import request_body
import settings
from schema import CLASSES, Sample
from validation import (
    RESPONSE_PER_BODY,
    InvalidSamples,
    digest_schema,
    parse_samples,
    to_array,
)


def check_model_info(path: Path) -> None:
    """Raise ModelError unless model-info.json describes this model and schema.py."""
    try:
        described = json.loads(path.read_bytes())["model"]
        model_digest, schema_digest = described["sha256"], described["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise model.ModelError(f"{path} is missing or unreadable") from error
    if model_digest != model.digest():
        raise model.ModelError(f"{path} describes a different model than {model.PATH.name}")
    if schema_digest != digest_schema():
        raise model.ModelError("schema.py has changed since the model was published")


check_model_info(Path(__file__).parent / "static" / "model-info.json")
app = Flask(__name__)
app.config.from_mapping(
    # The default body limit, in bytes, lower if responses are much longer than bodies. body_reader
    # below enforces it.
    MAX_CONTENT_LENGTH=request_body.max_length(RESPONSE_PER_BODY),
    CORS_MAX_AGE=7200,  # seconds for which browsers cache a preflight response; Chrome's maximum
    CORS_EXPOSE_HEADERS=["Allow", "Retry-After"],  # pages of other origins may read these as well
)
settings.check_server(app.logger)
settings.check_names(app.config)
app.config.from_prefixed_env()  # FLASK_MAX_CONTENT_LENGTH, FLASK_CORS_ORIGINS and so on
app.debug = get_debug_flag()  # the line above treats FLASK_DEBUG=no as true
settings.check_values(app.config)
body_reader = request_body.BodyReader(app.config["MAX_CONTENT_LENGTH"], RESPONSE_PER_BODY)
CORS(app, origins=settings.allowed_origins(app.config), vary_header=False)


@app.after_request
def vary_by_origin(response: Response) -> Response:
    """Tell caches that responses differ by origin, even for disallowed origins."""
    response.headers.add("Vary", "Origin")
    return response


@app.get("/")
def hello() -> str:
    """Respond to a health check."""
    return "hello!!"


@app.post("/predict")
def predict() -> Response:
    samples = read_samples()
    if isinstance(samples, Sample):
        return json_response(LABELS[model.predict(astuple(samples))])
    return json_response(json_array(LABELS[model.predict_classes(to_array(samples))]))


@app.post("/predict_proba")
def predict_proba() -> Response:
    samples = read_samples()
    if isinstance(samples, Sample):
        return json_response(predict_proba_in_json(to_array([samples]))[0])
    return json_response(json_array(predict_proba_in_json(to_array(samples))))


def read_samples() -> Sample | list[Sample]:
    """Return the sample or samples in the body; raise the HTTPException that says what is wrong."""
    # The usual header is compared first: is_json takes 3 µs to parse it.
    if request.environ.get("CONTENT_TYPE") != "application/json" and not request.is_json:
        abort(415, "Send the header Content-Type: application/json.")
    if "HTTP_CONTENT_ENCODING" in request.environ:
        abort(415, "Send the body without a Content-Encoding.")
    # Windows PowerShell sends a byte order mark before the JSON of a file.
    return parse_samples(body_reader.read().removeprefix(codecs.BOM_UTF8))


def json_response(value: bytes) -> Response:
    return Response(b'{"return":%b}' % value, content_type="application/json")


def json_array(values: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(values)


# The label of each class as a JSON string, by class: "0", "1" and so on.
LABELS = np.array([b'"%d"' % index for index in range(len(CLASSES))], object)


def encode_probabilities(probabilities: model.Array) -> model.Array:
    """Return probabilities, shape (n_samples, n_classes), as JSON objects, shape (n_samples,)."""
    rows = [dict(zip(CLASSES, row, strict=True)) for row in probabilities.tolist()]
    return np.array([msgspec.json.encode(row) for row in rows], object)


# Maps samples to their probabilities in JSON. If the model is small enough for a lookup table (see
# model.tabulate), every possible result is encoded here, at startup.
predict_proba_in_json = model.tabulate(model.booster, encode_probabilities)


@app.errorhandler(HTTPException)
def problem(error: HTTPException) -> Response:
    """Return every error as problem details (RFC 9457), without the cause of a 500."""
    members: dict[str, Any] = {
        "title": error.name,
        "status": error.code,
        "detail": error.description,
    }
    if isinstance(error, InvalidSamples):
        members["errors"] = error.errors
    headers = dict(error.get_headers())  # Allow and Retry-After
    headers["Content-Type"] = "application/problem+json"
    return Response(msgspec.json.encode(members), error.code, headers)


@app.errorhandler(NotFound)
def not_found(error: NotFound) -> Response:
    """Name the URLs to start from, for people who guess a path in a browser."""
    if request.method == "OPTIONS":
        # A browser's preflight: unless it succeeds, the page cannot read the 404 that follows.
        return Response(status=204)
    error.description = f"No such path. {where_to_look()}"
    return problem(error)


@app.errorhandler(MethodNotAllowed)
def method_not_allowed(error: MethodNotAllowed) -> Response:
    """Also name the allowed methods in the body, which is all that a browser shows."""
    allowed = ", ".join(sorted(error.valid_methods or ()))
    error.description = f"{request.path} allows {allowed} (not {request.method}). {where_to_look()}"
    return problem(error)


def where_to_look() -> str:
    page = url_for("static", filename="index.html")
    description = url_for("static", filename="openapi.json")
    return f"See the demo page at {page} or the OpenAPI description at {description}."


class RequestHandler(WSGIRequestHandler):
    """Werkzeug's handler, but its log shows IPv4 addresses without the prefix ::ffff:."""

    def address_string(self) -> str:
        return settings.without_prefix(super().address_string())


class Server(ThreadedWSGIServer):
    """Werkzeug's server, but its IPv6 socket accepts IPv4 on Windows as well."""

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    port = settings.port()
    # Only for local clients in debug mode, because the debugger lets its users run any code.
    host = "127.0.0.1" if app.debug else settings.wildcard_address()
    print(f" * {model.describe()}")
    print(f" * Demo page: {settings.page_url(host, port)} (press CTRL+C to quit)", flush=True)
    if app.debug:
        app.run(host, port)
    else:
        Server(host, port, app, RequestHandler).serve_forever()

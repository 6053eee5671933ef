"""A small REST service around the iris model: flowers in, their species out."""

import codecs
import socket
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
from flask import Flask, Response, abort, request, url_for
from flask.helpers import get_debug_flag
from flask_cors import CORS
from msgspec.structs import astuple
from werkzeug.exceptions import HTTPException, NotFound, UnprocessableEntity
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

import model
import request_body
import settings

MAX_ERRORS = 100  # in one answer: a body can have a million, and naming one takes 80 bytes

app = Flask(__name__)
app.config.from_mapping(
    MAX_CONTENT_LENGTH=request_body.MAX_LENGTH,  # for body_reader: Flask itself reads no body here
    CORS_MAX_AGE=7200,  # seconds for which browsers cache a preflight response; Chrome's maximum
    CORS_EXPOSE_HEADERS=["Allow", "Retry-After"],  # pages of other origins may read these as well
)
settings.check_server(app.logger)
settings.check_names(app.config)
app.config.from_prefixed_env()  # FLASK_MAX_CONTENT_LENGTH, FLASK_CORS_ORIGINS and so on
app.debug = get_debug_flag()  # the line above takes FLASK_DEBUG=no for true
settings.check_values(app.config)
body_reader = request_body.BodyReader(app.config["MAX_CONTENT_LENGTH"])
CORS(app, origins=settings.allowed_origins(app.config), vary_header=False)


@app.after_request
def vary_by_origin(response: Response) -> Response:
    """Tell caches that responses differ by origin; Flask-Cors would tell only allowed origins."""
    response.headers.add("Vary", "Origin")
    return response


@app.get("/")
def hello() -> str:
    """Answer a health check."""
    return "hello!!"


@app.post("/predict")
def predict() -> Response:
    flowers = read_flowers()
    if isinstance(flowers, Flower):
        # Through the wrapper that is for Python code, too: so both give the same answers.
        return json_response(LABELS[model.predict(astuple(flowers))])
    return json_response(json_array(LABELS[model.classes(to_array(flowers))]))


@app.post("/predict_proba")
def predict_proba() -> Response:
    flowers = read_flowers()
    if isinstance(flowers, Flower):
        return json_response(probabilities_in_json(to_array([flowers]))[0])
    return json_response(json_array(probabilities_in_json(to_array(flowers))))


def json_response(value: bytes) -> Response:
    return Response(b'{"return":%b}' % value, content_type="application/json")


def json_array(values: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(values)


# The API's class labels, "0", "1" and "2", are text. Here they are in JSON, by class.
LABELS = np.array([b'"%d"' % index for index in range(len(model.SPECIES))], object)


def encode_probabilities(probabilities: model.Array) -> model.Array:
    """Return each flower's probabilities, shape (n, classes), as JSON objects, shape (n,)."""
    rows = [dict(zip(model.SPECIES, row, strict=True)) for row in probabilities.tolist()]
    return np.array([msgspec.json.encode(row) for row in rows], object)


# A function of flowers. Where the model has a table, its answers are encoded now, once for each.
probabilities_in_json = model.tabulate(model.booster, encode_probabilities)

CM = msgspec.Meta(ge=0, le=100, description="in cm")  # the longest iris has 7.9
Length = Annotated[float, CM]
EXPECTED_LENGTH = f"expected a number from {CM.ge} to {CM.le}, {CM.description}"


class Flower(msgspec.Struct, rename="camel", gc=False):  # no flower is part of a cycle
    """One iris, its fields in the model's order."""

    sepal_length_cm: Length
    sepal_width_cm: Length
    petal_length_cm: Length
    petal_width_cm: Length


NAMES = Flower.__struct_encode_fields__  # in JSON: sepalLengthCm and so on
if len(NAMES) != model.N_FEATURES:
    raise SystemExit(
        f"Flower in run.py has {len(NAMES)} fields, but the model has {model.N_FEATURES} features."
    )
decode_flowers = msgspec.json.Decoder(Flower | list[Flower]).decode
decode_length = msgspec.json.Decoder(Length).decode


def to_array(flowers: list[Flower]) -> model.Array:
    """Return the flowers' lengths in cm as float32, shape (n, 4)."""
    lengths = chain.from_iterable(map(astuple, flowers))
    count = len(flowers) * model.N_FEATURES
    return np.fromiter(lengths, np.float32, count).reshape(-1, model.N_FEATURES)


def read_flowers() -> Flower | list[Flower]:
    """Return the body's flower or flowers; raise the HTTPException that says what is wrong."""
    # The usual header is compared first: for any other, is_json parses it, which takes 3 µs.
    if request.environ.get("CONTENT_TYPE") != "application/json" and not request.is_json:
        abort(415, "Send the header Content-Type: application/json.")
    if "HTTP_CONTENT_ENCODING" in request.environ:
        abort(415, "Send the body as it is, without a Content-Encoding.")
    text = body_reader.read().removeprefix(codecs.BOM_UTF8)  # Windows PowerShell writes one
    try:
        if not text.isascii():
            text.decode()  # msgspec leaves the UTF-8 of fields that it skips unchecked
        return decode_flowers(text)
    except msgspec.ValidationError as error:  # also a DecodeError, so it comes first
        abort_as_not_flowers(text, str(error))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        abort_as_not_json(error)


def abort_as_not_json(error: Exception) -> NoReturn:
    abort(400, f"The body is not JSON in UTF-8: {error}.")


class NotFlowers(UnprocessableEntity):
    """The body is JSON, but neither a flower nor an array of flowers."""

    def __init__(self, errors: list[dict[str, str]], more: bool) -> None:
        description = "The body is neither a flower nor an array of flowers: see errors."
        if more:
            description += f" There are more than these {MAX_ERRORS}."
        super().__init__(description)
        self.errors = errors


def abort_as_not_flowers(text: bytes, first_error: str) -> NoReturn:
    """Raise NotFlowers, or BadRequest where the text is no JSON.

    msgspec has stopped at the first error, and read no further.
    """
    try:
        msgspec.json.decode(text, type=msgspec.Raw)  # reads all of it
    except (msgspec.DecodeError, RecursionError) as error:
        abort_as_not_json(error)
    errors = errors_in(text)
    first_errors = list(islice(errors, MAX_ERRORS))
    if not first_errors:  # a flower has a field twice: errors_in sees only the last, a right one
        first_errors = [{"pointer": "", "detail": first_error}]
    raise NotFlowers(first_errors, more=next(errors, None) is not None)


def errors_in(text: bytes) -> Iterator[dict[str, str]]:
    """Yield each error in what should be a flower or an array of flowers."""
    try:
        flowers = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.ValidationError:  # no array
        yield from errors_in_flower(msgspec.Raw(text), "")
        return
    for index, flower in enumerate(flowers):
        yield from errors_in_flower(flower, f"/{index}")


def errors_in_flower(flower: msgspec.Raw, pointer: str) -> Iterator[dict[str, str]]:
    """Yield each error's JSON pointer (RFC 6901), and what was expected and what was there."""
    try:
        fields = msgspec.json.decode(flower, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        yield {"pointer": pointer, "detail": f"expected an object, got {beginning(flower)}"}
        return
    for name in NAMES:
        if name not in fields:
            yield {"pointer": f"{pointer}/{name}", "detail": f"{EXPECTED_LENGTH}, got nothing"}
            continue
        try:
            decode_length(fields[name])
        except msgspec.ValidationError:
            got = beginning(fields[name])
            yield {"pointer": f"{pointer}/{name}", "detail": f"{EXPECTED_LENGTH}, got {got}"}


def beginning(value: msgspec.Raw) -> str:
    """Return the first 40 characters of a value, as it is written."""
    return str(value, "utf-8")[:40]


@app.errorhandler(HTTPException)
def problem(error: HTTPException) -> Response:
    """Answer every error as a problem (RFC 9457), and do not tell what caused a 500."""
    members: dict[str, Any] = {
        "title": error.name,
        "status": error.code,
        "detail": error.description,
    }
    if isinstance(error, NotFlowers):
        members["errors"] = error.errors
    headers = dict(error.get_headers())  # Allow and Retry-After
    headers["Content-Type"] = "application/problem+json"
    return Response(msgspec.json.encode(members), error.code, headers)


@app.errorhandler(NotFound)
def not_found(error: NotFound) -> Response:
    """Answer a wrong path with the right ones."""
    if request.method == "OPTIONS":
        # A browser asks whether it may send a page's request to this path. Only if it may, the
        # page can read the 404 that the request then gets.
        return Response(status=204)
    page = url_for("static", filename="index.html")
    description = url_for("static", filename="openapi.json")
    error.description = (
        f"There is no such path. The page is {page}, the OpenAPI description {description}."
    )
    return problem(error)


class RequestHandler(WSGIRequestHandler):
    """Werkzeug's own, except that the log shows IPv4 clients without ::ffff:."""

    def address_string(self) -> str:
        return settings.without_prefix(super().address_string())


class Server(ThreadedWSGIServer):
    """Werkzeug's own, except that an IPv6 socket also accepts IPv4 on Windows, as elsewhere."""

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    port = settings.port()
    host = "127.0.0.1" if app.debug else settings.wildcard_address()  # the debugger runs any code
    print(f" * The demo page: {settings.page_url(host, port)} (press CTRL+C to quit)", flush=True)
    if app.debug:
        app.run(host, port)
    else:
        Server(host, port, app, RequestHandler).serve_forever()

"""A small REST service around the iris model: flowers in, their species out."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import msgspec
import numpy as np
from flask import Flask, Response, abort, after_this_request, request
from flask.helpers import get_debug_flag
from flask_cors import CORS
from msgspec.structs import astuple
from werkzeug.exceptions import HTTPException, ServiceUnavailable

import model

app = Flask(__name__)
app.config.from_mapping(MAX_CONTENT_LENGTH=2**20, CORS_MAX_AGE=7200)
app.config.from_prefixed_env()
if type(MAX_LENGTH := app.config["MAX_CONTENT_LENGTH"]) is not int or MAX_LENGTH < 1:
    raise SystemExit(f"FLASK_MAX_CONTENT_LENGTH is {MAX_LENGTH!r} and has to be a number of bytes.")
if isinstance(origins := app.config.get("CORS_ORIGINS"), str):
    app.config["CORS_ORIGINS"] = [origin.strip() for origin in origins.split(",")]
if "CORS_ORIGINS" in app.config:  # the answers differ by origin, those to a refused one too
    app.after_request(lambda response: response.vary.update(["Origin"]) or response)
CORS(app)


@app.get("/")
def hello() -> str:
    return "hello!!"


@app.post("/predict")
def predict() -> Response:
    flowers = flowers_or_abort()
    if isinstance(flowers, Flower):
        return returned(CLASSES[model.predict(astuple(flowers))])
    return returned(b"[%b]" % b",".join(CLASSES[model.classes(array(flowers))]))


@app.post("/predict_proba")
def predict_proba() -> Response:
    flowers = flowers_or_abort()
    if isinstance(flowers, Flower):
        return returned(probabilities(array([flowers]))[0])
    return returned(b"[%b]" % b",".join(probabilities(array(flowers))))


def returned(answer: bytes) -> Response:
    return Response(b'{"return":%b}' % answer, content_type="application/json")


CLASSES = np.array([b'"%d"' % index for index in range(len(model.SPECIES))], object)


@model.tabulated
def probabilities(probabilities: model.Array) -> model.Array:
    """Return each flower's probabilities in JSON."""
    named = [dict(zip(model.SPECIES, row, strict=True)) for row in probabilities.tolist()]
    return np.array(list(map(msgspec.json.encode, named)), object)


CM = msgspec.Meta(ge=0, le=100, description="in cm")
Length = Annotated[float, CM]
EXPECTED = f"expected a number from {CM.ge} to {CM.le}, {CM.description}, got "


class Flower(msgspec.Struct, rename="camel", gc=False):
    """One iris, its fields in the model's order."""

    sepal_length_cm: Length
    sepal_width_cm: Length
    petal_length_cm: Length
    petal_width_cm: Length


NAMES = Flower.__struct_encode_fields__
decode = msgspec.json.Decoder(Flower | list[Flower]).decode
decode_length = msgspec.json.Decoder(Length).decode
pack = msgspec.msgpack.Encoder().encode
HEADER = len(pack((0.0,) * len(NAMES))) - 9 * len(NAMES)  # as each float takes nine bytes
ROW = np.dtype([("header", f"V{HEADER}"), ("lengths", "V1, >f8", len(NAMES))])


def array(flowers: list[Flower]) -> model.Array:
    packed = pack(list(map(astuple, flowers)))  # numpy.fromiter takes nearly twice as long
    rows = np.frombuffer(packed, ROW, offset=len(packed) % ROW.itemsize)
    return rows["lengths"]["f1"].astype(np.float32)


def flowers_or_abort() -> Flower | list[Flower]:
    """Return the body's flower or flowers; raise the HTTPException that says what is wrong."""
    environ = request.environ  # once: a use of the proxy `request` takes 1 µs, and is_json 3 µs
    if environ.get("CONTENT_TYPE") != "application/json" and not request.is_json:
        abort(415, "Send the header Content-Type: application/json.")
    if "HTTP_CONTENT_ENCODING" in environ:
        abort(415, "Send the body as it is, without a Content-Encoding.")
    body = body_or_abort(environ)
    try:
        if not body.isascii():
            body.decode()  # msgspec leaves the UTF-8 of what it skips unchecked
        try:
            return decode(body)
        except msgspec.ValidationError as error:  # the first one: read again to name them all
            msgspec.json.decode(body, type=msgspec.Raw)  # what follows it is unchecked yet
            errors = list(islice(errors_in(body), MAX_ERRORS + 1))
            abort(422, errors or [{"pointer": "", "detail": str(error)}])
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        abort(400, f"The body is not JSON in UTF-8: {error}.")


MAX_ERRORS = 100  # for a body of 1 MiB can have a million, and naming one takes 80 bytes
# Each body beyond SMALL takes its length from its process's BUDGET until it is answered, which
# bounds the memory of them all; a smaller one is never refused for the sake of others.
SMALL = 2**14
BUDGET = 16 * MAX_LENGTH  # so that the longest body fits, whatever its limit is
reserved: dict[object, int] = {}


def body_or_abort(environ: dict[str, Any]) -> bytes:
    # Not request.get_data(): its guards against a server that reads past the body cost 8 µs, a
    # tenth of a request, and let a chunked body end early without an error.
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    length = MAX_LENGTH + 1 if chunked else request.content_length or 0
    body = b""
    try:
        if chunked:
            body = environ["wsgi.input"].read(min(length, SMALL))
        if length <= MAX_LENGTH or len(body) == SMALL < length:
            if length > SMALL:
                reserve_or_abort(length)
            body += environ["wsgi.input"].read(length - len(body))
    except HTTPException:
        raise
    except Exception as error:  # OSError, or the server's own for a malformed chunk
        abort(400, f"The body ends early or has a malformed chunk: {type(error).__name__}.")
    if (len(body) if chunked else length) > MAX_LENGTH:
        abort(413, f"The body is longer than {MAX_LENGTH} bytes.")
    if len(body) < length and not chunked:
        abort(400, f"The body ends after {len(body)} of the {length} bytes announced.")
    return body


def reserve_or_abort(length: int) -> None:
    if sum(list(reserved.values())) + length > BUDGET:
        raise ServiceUnavailable("Too many large requests are being answered.", retry_after=1)
    reserved[key := object()] = length
    after_this_request(lambda answer: answer.call_on_close(lambda: reserved.pop(key)) and answer)


def errors_in(body: bytes) -> Iterator[dict[str, str]]:
    """Yield each error's JSON pointer (RFC 6901), and what was expected and what was there."""
    try:
        flowers, pointer = msgspec.json.decode(body, type=list[msgspec.Raw]), "/{}"
    except msgspec.ValidationError:
        flowers, pointer = [msgspec.Raw(body)], ""
    for index, flower in enumerate(flowers):
        at = pointer.format(index)
        try:
            fields = msgspec.json.decode(flower, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            yield dict(pointer=at, detail=f"expected an object, got {str(flower, 'utf-8'):.40}")
            continue
        for name in NAMES:
            length = fields.get(name, msgspec.Raw(b"nothing"))  # which is no JSON, so refused too
            try:
                decode_length(length)
            except msgspec.DecodeError:
                yield dict(pointer=f"{at}/{name}", detail=f"{EXPECTED}{str(length, 'utf-8'):.40}")


@app.errorhandler(HTTPException)
def problem(error: HTTPException) -> Response:
    """Answer every error as a problem (RFC 9457), the unforeseen ones as a bare 500."""
    if error.code == 404 and request.method == "OPTIONS":
        return Response(status=204)  # else a browser keeps the 404 that follows it to itself
    body: Any = {"title": error.name, "status": error.code, "detail": error.description}
    if isinstance(errors := error.description, list):
        more = f" There are more than these {MAX_ERRORS}." if len(errors) > MAX_ERRORS else ""
        body["detail"] = f"The body is neither a flower nor an array of flowers: see errors.{more}"
        body["errors"] = errors[:MAX_ERRORS]
    headers = [*error.get_headers(), ("Content-Type", "application/problem+json")]
    return Response(msgspec.json.encode(body), error.code, dict(headers))


if __name__ == "__main__":
    port = os.environ.get("PORT", "3000")
    if not port.isdecimal():
        raise SystemExit(f"PORT is {port!r} and has to be a number.")
    debug = get_debug_flag()
    app.run(host="127.0.0.1" if debug else "0.0.0.0", port=int(port), debug=debug)

"""A small REST service around the iris model: flowers in, their species out."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import msgspec
import numpy as np
from flask import Flask, Response, abort, request
from flask.helpers import get_debug_flag
from flask.typing import ResponseReturnValue
from flask_cors import CORS
from msgspec.structs import astuple
from numpy.typing import NDArray
from werkzeug.exceptions import HTTPException, UnprocessableEntity

import model

app = Flask(__name__)
app.config.from_mapping(MAX_CONTENT_LENGTH=2**20, CORS_MAX_AGE=7200)
app.config.from_prefixed_env()
CORS(app)

CENTIMETRES = msgspec.Meta(ge=0, le=100, description="in cm")
Length = Annotated[float, CENTIMETRES]
EXPECTED = f"a number from {CENTIMETRES.ge} to {CENTIMETRES.le}, {CENTIMETRES.description}"


class Flower(msgspec.Struct, rename="camel", gc=False):
    """One iris, its fields in the model's order."""

    sepal_length_cm: Length
    sepal_width_cm: Length
    petal_length_cm: Length
    petal_width_cm: Length


NAMES = Flower.__struct_encode_fields__
decode = msgspec.json.Decoder(Flower | list[Flower]).decode
decode_length = msgspec.json.Decoder(Length).decode

# MessagePack writes every Flower in the same number of bytes, so NumPy reads a list of them in
# place: a thousand take 50 µs instead of 120 for a loop over their fields.
pack = msgspec.msgpack.Encoder().encode
EMPTY = pack(Flower(0.0, 0.0, 0.0, 0.0))
ROW = np.dtype(
    {
        "names": NAMES,
        "formats": [">f8"] * len(NAMES),
        "offsets": [EMPTY.index(name.encode()) + len(name) + 1 for name in NAMES],
        "itemsize": len(EMPTY),
    }
)
CLASSES = np.array([str(i) for i in range(len(model.SPECIES))], object)

# A body of 1 MiB can hold a million errors, and naming them all takes a hundred times its size.
MAX_ERRORS = 10_000


class InvalidFlowers(UnprocessableEntity):
    """Well-formed JSON that is neither a flower nor an array of flowers."""

    description = "The body is neither a flower nor an array of flowers: see errors."

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__()
        self.errors = errors


def body_or_abort() -> bytes:
    # Not request.get_data(): its guards against a server that reads past the body cost 8 µs, a
    # tenth of a request, and let a chunked body end early without an error.
    length = request.content_length or 0
    if length > app.config["MAX_CONTENT_LENGTH"]:
        abort(413, f"The body is longer than {app.config['MAX_CONTENT_LENGTH']} bytes.")
    if not length and "Transfer-Encoding" in request.headers:
        abort(411, "Send the body with a Content-Length, not chunked.")
    try:
        body = request.input_stream.read(length)
    except OSError:  # the connection broke
        body = b""
    if len(body) < length:
        abort(400, f"The body ends after {len(body)} of the {length} bytes announced.")
    return body


def flowers_or_abort() -> Flower | list[Flower]:
    """Return the body's flower or flowers; raise the HTTPException that says what is wrong."""
    if not request.is_json:
        abort(415, "Send the header Content-Type: application/json.")
    try:
        body = body_or_abort()
        if not body.isascii():
            body.decode()  # msgspec leaves the UTF-8 of what it skips unchecked
        try:
            return decode(body)
        except msgspec.ValidationError as error:  # the first one: read again to name them all
            errors = list(islice(errors_in(body), MAX_ERRORS))
            raise InvalidFlowers(errors or [{"pointer": "", "detail": str(error)}]) from None
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        abort(400, f"The body is not JSON in UTF-8: {error}.")


def errors_in(body: bytes) -> Iterator[dict[str, str]]:
    """Yield each error in a refused body: its JSON pointer (RFC 6901) and what was expected."""
    try:
        flowers = msgspec.json.decode(body, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        yield from errors_in_flower(msgspec.Raw(body), "")
    else:
        for index, flower in enumerate(flowers):
            yield from errors_in_flower(flower, f"/{index}")


def errors_in_flower(flower: msgspec.Raw, pointer: str) -> Iterator[dict[str, str]]:
    try:
        fields = msgspec.json.decode(flower, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        yield {"pointer": pointer, "detail": f"expected an object, got {shown(flower)}"}
        return
    for name in NAMES:
        length = fields.get(name, msgspec.Raw(b"nothing"))  # which is no JSON, so refused too
        try:
            decode_length(length)
        except msgspec.DecodeError:
            yield {
                "pointer": f"{pointer}/{name}",
                "detail": f"expected {EXPECTED}, got {shown(length)}",
            }


def shown(value: msgspec.Raw) -> str:
    return bytes(value).decode()[:40]


def array(flowers: list[Flower]) -> NDArray[np.float32]:
    packed = pack(flowers)
    rows = np.frombuffer(packed, ROW, offset=len(packed) - len(flowers) * ROW.itemsize)
    return np.array([rows[name] for name in NAMES], np.float32).T


def probabilities(flowers: list[Flower]) -> list[dict[str, float]]:
    rows = model.predict_proba(array(flowers)).tolist()
    return [dict(zip(model.SPECIES, row, strict=True)) for row in rows]


def returned(answer: Any) -> Response:
    return Response(msgspec.json.encode({"return": answer}), mimetype="application/json")


@app.get("/")
def hello() -> str:
    return "hello!!"


@app.post("/predict")
def predict() -> Response:
    flowers = flowers_or_abort()
    if isinstance(flowers, Flower):
        return returned(str(model.predict(astuple(flowers))))
    return returned(CLASSES[model.predict_classes(array(flowers))].tolist())


@app.post("/predict_proba")
def predict_proba() -> Response:
    flowers = flowers_or_abort()
    if isinstance(flowers, Flower):
        return returned(probabilities([flowers])[0])
    return returned(probabilities(flowers))


@app.errorhandler(HTTPException)
def problem(error: HTTPException) -> ResponseReturnValue:
    """Answer every error as a problem (RFC 9457), the unforeseen ones as a bare 500."""
    body: dict[str, Any] = {
        "title": error.name,
        "status": error.code,
        "detail": error.description,
    }
    if isinstance(error, InvalidFlowers):
        body["errors"] = error.errors
    response = error.get_response()
    response.data = msgspec.json.encode(body)
    response.content_type = "application/problem+json"
    return response


if __name__ == "__main__":
    debug = get_debug_flag()
    app.run(host="127.0.0.1" if debug else "0.0.0.0", port=3000, debug=debug)

"""Samples and requests that the tests send, and what plain XGBoost predicts for the samples.

model/publish.py writes expected_predictions.json with XGBClassifier.predict_proba, so no prediction
here is computed by the code under test.
"""

import json
from pathlib import Path
from typing import Any

from schema import CLASSES
from validation import FIELDS, SAMPLE_NAME

PREDICTIONS = json.loads(Path(__file__).with_name("expected_predictions.json").read_bytes())


def to_label(prediction: dict[str, Any]) -> str:
    return str(prediction["class"])


def to_probabilities(prediction: dict[str, Any]) -> dict[str, float]:
    return dict(zip(CLASSES, prediction["probabilities"], strict=True))


def to_response(*labels: str) -> bytes:
    """Return the body of /predict's response, for one sample or for an array of several."""
    returned = labels[0] if len(labels) == 1 else labels
    return json.dumps({"return": returned}, separators=(",", ":")).encode()


# The two samples that README, OpenAPI and Postman show.
SAMPLE, OTHER = (prediction["sample"] for prediction in PREDICTIONS[:2])
LABEL, OTHER_LABEL = map(to_label, PREDICTIONS[:2])
PROBABILITIES, OTHER_PROBABILITIES = map(to_probabilities, PREDICTIONS[:2])
FIRST, *_, LAST = SAMPLE  # names of fields

JSON = {"Content-Type": "application/json"}
BODY = json.dumps(SAMPLE).encode()
RESPONSE = to_response(LABEL)  # to BODY

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SIZED_HEAD = HEAD + b"Content-Length: %d\r\n\r\n"
CHUNKED_HEAD = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REQUEST = SIZED_HEAD % len(BODY) + BODY


def change(**values: Any) -> bytes:
    """Return SAMPLE with these values changed or added, as JSON."""
    return json.dumps(SAMPLE | values).encode()


def change_last(value: Any) -> bytes:
    return change(**{LAST: value})


def write_last(text: str) -> bytes:
    """Return SAMPLE with `text` as its last value, which need not be valid JSON."""
    return change_last("?").replace(b'"?"', text.encode())


INVALID_JSON = {
    "empty": b"",
    "space": b" ",
    "word": b"hello",
    "brace": b"{",
    "incomplete": BODY[:-1],
    "trailing-comma": b"[%b,]" % BODY,
    "trailing-character": BODY + b"x",
    "two-objects": BODY + BODY,
    "utf-16": BODY.decode().encode("utf-16"),
    "two-byte-order-marks": b"\xef\xbb\xbf" * 2 + BODY,
    "latin-1-value": change(note="ü").replace(b"\\u00fc", b"\xfc"),
    "latin-1-name": b'{"\xff": 1, ' + BODY[1:],
    "nan": write_last("NaN"),
    "infinity": write_last("-Infinity"),
    "leading-zero": write_last("01.8"),
    "no-decimals": write_last("1."),
    "plus": write_last("+1.8"),
    "hexadecimal": write_last("0x1"),
    "single-quotes": b"'{}'",
    "nan-alone": b"NaN",
    "bracket": b"1]",
    "two-strings": b'"a" b',
    "null-and-more": b"nullx",
    "number-and-more": b"4{",
    "zero-byte": b"123\0",
    "deep-array": b"[" * 800_000,
    "deep-closed-array": b"[" * 400_000 + b"]" * 400_000,
    "deep-object": b'{"a":' * 150_000,
    "deep-note": b'{"note": ' + b"[" * 400_000 + b"]" * 400_000 + b", " + BODY[1:],
    "invalid-and-deep": b'{"%b": "long", "note": ' % FIRST.encode()
    + b"[" * 400_000
    + b"]" * 400_000
    + b"}",
    "invalid-and-incomplete": b'{"%b": "long", and so on' % FIRST.encode(),
}


def field_error(index: int, received: str, pointer: str = "") -> dict[str, str]:
    """Return the error expected for one field, whose detail ends with `received`."""
    field = FIELDS[index]
    return {
        "pointer": f"{pointer}/{field.name}",
        "detail": f"expected {field.expectation()}{received}",
    }


FLOAT = "float | null" if FIELDS[-1].is_optional else "float"
MISSING = ", but the field is missing"
TOO_SMALL, TOO_LARGE = FIELDS[-1].minimum - 0.1, FIELDS[-1].maximum + 0.1
INVALID_SAMPLES: dict[str, tuple[bytes, list[dict[str, str]]]] = {
    "empty-object": (b"{}", [field_error(index, MISSING) for index in range(len(FIELDS))][:100]),
    "number": (b"5", [{"pointer": "", "detail": "expected an object, got 5"}]),
    "null": (b"null", [{"pointer": "", "detail": "expected an object, got null"}]),
    "text": (b'"{}"', [{"pointer": "", "detail": 'expected an object, got "{}"'}]),
    "array-of-others": (
        b"[%b, 1, [], null]" % BODY,
        [
            {"pointer": "/1", "detail": "expected an object, got 1"},
            {"pointer": "/2", "detail": "expected an object, got []"},
            {"pointer": "/3", "detail": "expected an object, got null"},
        ],
    ),
    "text-in-field": (change_last("1.8"), [field_error(-1, ', got "1.8"')]),
    "true-in-field": (change_last(True), [field_error(-1, ", got true")]),
    "array-in-field": (change_last([1.8]), [field_error(-1, ", got [1.8]")]),
    "object-in-field": (change_last({}), [field_error(-1, ", got {}")]),
    "too-small": (change_last(TOO_SMALL), [field_error(-1, f", got {TOO_SMALL}")]),
    "too-large": (change_last(TOO_LARGE), [field_error(-1, f", got {TOO_LARGE}")]),
    "beyond-float32": (write_last("1e39"), [field_error(-1, ", got 1e39")]),
    "beyond-float64": (write_last("1e400"), [field_error(-1, ", got 1e400")]),
    "many-digits": (write_last("9" * 5000), [field_error(-1, f", got {'9' * 40}")]),
    "two-fields": (
        change(**{FIRST: [], LAST: "ü"}),
        [field_error(0, ", got []"), field_error(-1, ', got "\\u00fc"')],
    ),
    "in-array": (
        json.dumps([SAMPLE] * 17 + [SAMPLE | {LAST: ""}]).encode(),
        [field_error(-1, ', got ""', pointer="/17")],
    ),
    "field-twice": (
        b'{"%b": true, ' % LAST.encode() + BODY[1:],
        [{"pointer": "", "detail": f"Expected `{FLOAT}`, got `bool` - at `$.{LAST}`"}],
    ),
    "typo": (  # LAST is misspelled, and its plural is added
        change(**{f"{LAST}s": 1}).replace(b'"%b": ' % LAST.encode(), b'"%bX": ' % LAST.encode()),
        [field_error(-1, f"{MISSING}; the {SAMPLE_NAME} has unknown fields '{LAST}X', '{LAST}s'")],
    ),
}
if not FIELDS[-1].is_optional:
    INVALID_SAMPLES["null-in-field"] = (change_last(None), [field_error(-1, ", got null")])

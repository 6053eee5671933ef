"""JSON in, samples out: parse a request's body, or list everything that is wrong with it."""

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, NoReturn, get_type_hints

import msgspec
import numpy as np
from flask import abort
from msgspec.structs import astuple
from numpy.typing import NDArray
from werkzeug.exceptions import UnprocessableEntity

from schema import CLASSES, Sample

MAX_ERRORS = 100  # in one response: a body can contain a million, and each takes about 80 bytes
MAX_UNKNOWN = 3  # unknown fields that an error names
MAX_QUOTED = 40  # characters of a value or a name that an error quotes

# Bytes of the longest number in JSON: the float64 -1.7976931348623157e+308 in a request, and in a
# response a float32 probability below 0.0001, such as 0.000061033562815282494.
NUMBER = 24
PROBABILITY = 23


class Field(NamedTuple):
    """One field of a sample, as clients see it."""

    name: str  # in JSON
    minimum: float
    maximum: float
    unit: str  # the description in schema.py, such as "in cm"; may be empty
    is_integer: bool
    is_optional: bool  # may be null, for an unknown value
    decode: Callable[[msgspec.Raw], Any]

    def expectation(self) -> str:
        """Return what the field expects, such as "a number from 0 to 100 (in cm)"."""
        number = "a whole number" if self.is_integer else "a number"
        unit = f" ({self.unit})" if self.unit else ""
        null = ", or null" if self.is_optional else ""
        return f"{number} from {self.minimum} to {self.maximum}{unit}{null}"


def read_fields(struct: type[msgspec.Struct]) -> list[Field]:
    """Return a Struct's fields in order; raise SystemExit for one that cannot be served."""
    hints = get_type_hints(struct, include_extras=True)
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return [read_field(field, hints[field.name]) for field in info.fields]


def read_field(field: msgspec.inspect.Field, hint: Any) -> Field:
    """Return one field of a Struct; raise SystemExit unless it is a float within two limits."""
    if not field.required:
        raise SystemExit(f"schema.py: {field.name} must not have a default value.")
    kind = field.type
    is_optional = isinstance(kind, msgspec.inspect.UnionType) and kind.includes_none
    if isinstance(kind, msgspec.inspect.UnionType) and is_optional and len(kind.types) == 2:
        kind = next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType))
    unit = ""
    if isinstance(kind, msgspec.inspect.Metadata):
        unit = (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    if not isinstance(kind, msgspec.inspect.FloatType):
        raise SystemExit(f"schema.py: {field.name} must be a float, or float | None.")
    if kind.ge is None or kind.le is None or kind.multiple_of not in (None, 1):
        raise SystemExit(
            f"schema.py: {field.name} must have both limits, as in msgspec.Meta(ge=0, le=100); "
            "multiple_of=1 makes it a whole number."
        )
    if not -FLOAT32_MAX <= kind.ge < kind.le <= FLOAT32_MAX:
        raise SystemExit(
            f"schema.py: the limits of {field.name} must be ascending and finite in float32."
        )
    return Field(
        name=field.encode_name,
        minimum=kind.ge,
        maximum=kind.le,
        unit=unit,
        is_integer=kind.multiple_of == 1,
        is_optional=is_optional,
        decode=msgspec.json.Decoder(hint).decode,
    )


FLOAT32_MAX = float(np.finfo(np.float32).max)
FIELDS = read_fields(Sample)
NAMES = [field.name for field in FIELDS]
# What the texts for clients call a sample: "flower" for Flower, "house sale" for HouseSale.
SAMPLE_NAME = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", Sample.__name__).lower()

# Bytes in compact JSON: of samples, with the comma that separates two, and of probabilities.
FRAME = len(msgspec.json.encode(dict.fromkeys(NAMES, 0))) - len(NAMES) + 1
LONGEST_SAMPLE = FRAME + NUMBER * len(NAMES)
SHORTEST_SAMPLE = FRAME + len(NAMES)
LONGEST_PROBABILITIES = (
    len(msgspec.json.encode(dict.fromkeys(CLASSES, 0))) + (PROBABILITY - 1) * len(CLASSES) + 1
)
# How many times as long as its request a response can be: 1.5 for iris.
RESPONSE_PER_BODY = LONGEST_PROBABILITIES / SHORTEST_SAMPLE

decode_samples = msgspec.json.Decoder(Sample | list[Sample]).decode


def parse_samples(text: bytes) -> Sample | list[Sample]:
    """Return the sample or samples in a body.

    Raises BadRequest if the text is not JSON in UTF-8, and InvalidSamples if it is something else
    than a sample or an array of samples.
    """
    try:
        if not text.isascii():
            text.decode()  # msgspec does not check the UTF-8 of fields that it skips
        return decode_samples(text)
    except msgspec.ValidationError as error:  # a subclass of DecodeError, so it comes first
        abort_with_errors(text, str(error))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        abort_as_not_json(text, error)


def to_array(samples: list[Sample]) -> NDArray[np.float32]:
    """Return samples as float32, shape (n_samples, n_features); null becomes NaN."""
    values: Iterator[Any] = chain.from_iterable(map(astuple, samples))
    if any(field.is_optional for field in FIELDS):
        values = (np.nan if value is None else value for value in values)
    count = len(samples) * len(NAMES)
    return np.fromiter(values, np.float32, count).reshape(-1, len(NAMES))


class InvalidSamples(UnprocessableEntity):
    """The body is JSON, but neither a sample nor an array of samples."""

    def __init__(self, errors: list[dict[str, str]], more: bool) -> None:
        description = f"Expected one {SAMPLE_NAME} or an array of them; see errors."
        if more:
            description += f" There are more than these {MAX_ERRORS}."
        super().__init__(description)
        self.errors = errors


def abort_with_errors(text: bytes, first_error: str) -> NoReturn:
    """Raise InvalidSamples, or BadRequest if the text is not JSON.

    msgspec stopped at `first_error` and did not read the rest of the text.
    """
    try:
        msgspec.json.decode(text, type=msgspec.Raw)  # reads all of it
    except (msgspec.DecodeError, RecursionError) as error:
        abort_as_not_json(text, error)
    errors = iter_errors(text)
    first_errors = list(islice(errors, MAX_ERRORS))
    if not first_errors:  # a field occurs twice: iter_errors sees the last one only, which is valid
        first_errors = [{"pointer": "", "detail": first_error}]
    raise InvalidSamples(first_errors, more=next(errors, None) is not None)


def iter_errors(text: bytes) -> Iterator[dict[str, str]]:
    """Yield each error in what should be a sample or an array of samples."""
    try:
        samples = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.ValidationError:  # not an array
        yield from iter_sample_errors(msgspec.Raw(text), "")
        return
    for index, sample in enumerate(samples):
        yield from iter_sample_errors(sample, f"/{index}")


def iter_sample_errors(sample: msgspec.Raw, pointer: str) -> Iterator[dict[str, str]]:
    """Yield the JSON pointer (RFC 6901) of each error, and what was expected and received."""
    try:
        values = msgspec.json.decode(sample, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        yield {"pointer": pointer, "detail": f"expected an object, got {quote(sample)}"}
        return
    for field in FIELDS:
        detail = f"expected {field.expectation()}"
        if field.name not in values:
            detail += f", but the field is missing{unknown_fields(values)}"
        else:
            value = values[field.name]
            try:
                field.decode(value)
                continue
            except msgspec.ValidationError:
                detail += f", got {quote(value)}"
        yield {"pointer": f"{pointer}/{escape(field.name)}", "detail": detail}


def unknown_fields(values: dict[str, msgspec.Raw]) -> str:
    """Return a clause that names a sample's first unknown fields: often, one is a typing error."""
    unknown = islice((name for name in values if name not in NAMES), MAX_UNKNOWN)
    quoted = ", ".join(f"'{name[:MAX_QUOTED]}'" for name in unknown)
    if not quoted:
        return ""
    noun = "fields" if "', '" in quoted else "field"
    return f"; the {SAMPLE_NAME} has the unknown {noun} {quoted}"


def quote(value: msgspec.Raw) -> str:
    """Return the beginning of a value, as it is written in the body."""
    return str(value, "utf-8")[:MAX_QUOTED]


def escape(name: str) -> str:
    """Return a name as a JSON pointer's token (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def abort_as_not_json(text: bytes, error: Exception) -> NoReturn:
    """Raise BadRequest, which names NaN or Infinity if that is what is wrong."""
    reason = str(error)
    stopped = re.search(r"\(byte (\d+)\)$", reason)
    if stopped:
        position = int(stopped[1])
        constant = re.match(rb"NaN|Infinity", text[position : position + 8])
        if constant:
            reason = f"found {constant[0].decode()}{locate(text[:position])} (byte {position})"
    abort(400, f"The body is not JSON in UTF-8: {reason}.")


def locate(preceding: bytes) -> str:
    """Return " at " and the JSON pointer of the value that follows in a sample, or "" elsewhere."""
    name = re.search(rb'"([^"\\]*)"\s*:\s*-?$', preceding)
    opened = preceding.rfind(b"{")
    if name is None or opened == -1:
        return ""
    pointer = escape(name[1].decode())
    earlier_samples = preceding[:opened].strip(b" \t\r\n,")
    if not earlier_samples:
        return f" at /{pointer}"
    try:
        index = len(msgspec.json.decode(earlier_samples + b"]", type=list[msgspec.Raw]))
    except (msgspec.DecodeError, RecursionError):  # an object within a sample
        return ""
    return f" at /{index}/{pointer}"

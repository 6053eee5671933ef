"""JSON in, samples out: parse a request's body, or list everything that is wrong with it."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, NoReturn, get_type_hints

import msgspec
import numpy as np
from flask import abort
from msgspec.structs import astuple
from numpy.typing import NDArray
from werkzeug.exceptions import UnprocessableEntity

import schema
from schema import CLASSES, Sample

MAX_ERRORS = 100  # in one response: a body can contain a million, and each takes about 80 bytes
MAX_UNKNOWN = 3  # unknown fields that one error names, at most
MAX_QUOTED = 40  # characters of a value or a name that an error quotes, at most

# The longest numbers, in bytes: a float64 that Python writes in a request, such as
# -2.2250738585072014e-308, and a probability that msgspec writes in a response (a float32 as
# float64), such as 0.000061033562815282494.
MAX_NUMBER_LENGTH = 24
MAX_PROBABILITY_LENGTH = 23
FLOAT32_MAX = float(np.finfo(np.float32).max)


class Field(NamedTuple):
    """One field of a sample, as clients see it."""

    name: str  # in JSON
    minimum: float
    maximum: float
    description: str  # the unit, such as "in cm"; may be empty
    is_integer: bool
    is_optional: bool  # may be null, for an unknown value
    decode: Callable[[msgspec.Raw], Any]  # returns the value, or raises msgspec.ValidationError

    def expectation(self) -> str:
        """Return what the field expects, such as "a number from 0 to 100 (in cm)"."""
        number = "a whole number" if self.is_integer else "a number"
        unit = f" ({self.description})" if self.description else ""
        null = ", or null" if self.is_optional else ""
        return f"{number} from {self.minimum} to {self.maximum}{unit}{null}"


def read_fields(struct: type[msgspec.Struct]) -> list[Field]:
    """Return a Struct's fields in order; raise SystemExit for one that cannot be served."""
    hints = get_type_hints(struct, include_extras=True)
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return [read_field(field, hints[field.name]) for field in info.fields]


def read_field(info: msgspec.inspect.Field, hint: Any) -> Field:
    """Return one field of a Struct, given what msgspec knows about it and its type hint.

    Raises SystemExit unless it is float or float | None, with both limits and no default value.
    """
    if not info.required:
        raise SystemExit(f"schema.py: {info.name} must not have a default value.")
    kind = info.type
    is_optional = False
    if isinstance(kind, msgspec.inspect.UnionType) and kind.includes_none and len(kind.types) == 2:
        is_optional = True
        kind = next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType))
    description = ""
    if isinstance(kind, msgspec.inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    if not isinstance(kind, msgspec.inspect.FloatType):
        raise SystemExit(f"schema.py: {info.name} must be float or float | None.")
    if kind.ge is None or kind.le is None or kind.multiple_of not in (None, 1):
        raise SystemExit(
            f"schema.py: {info.name} must have both limits, as in msgspec.Meta(ge=0, le=100), and "
            "no multiple_of other than 1 (for whole numbers)."
        )
    if not -FLOAT32_MAX <= kind.ge < kind.le <= FLOAT32_MAX:
        raise SystemExit(
            f"schema.py: {info.name} must have ge < le, and both must be finite in float32."
        )
    return Field(
        name=info.encode_name,
        minimum=kind.ge,
        maximum=kind.le,
        description=description,
        is_integer=kind.multiple_of == 1,
        is_optional=is_optional,
        decode=msgspec.json.Decoder(hint).decode,
    )


def length_without_values(names: Collection[str]) -> int:
    """Return the length in bytes of an object in compact JSON, without its values.

    It includes the comma that follows the object in an array.
    """
    with_zeros = msgspec.json.encode(dict.fromkeys(names, 0))
    return len(with_zeros) - len(names) + len(",")


FIELDS = read_fields(Sample)
NAMES = [field.name for field in FIELDS]
# The name of a sample in messages to clients: "flower" for Flower, "house sale" for HouseSale.
SAMPLE_NAME = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", Sample.__name__).lower()

LONGEST_SAMPLE = length_without_values(NAMES) + MAX_NUMBER_LENGTH * len(NAMES)  # in bytes
SHORTEST_SAMPLE = length_without_values(NAMES) + len(NAMES)
LONGEST_PROBABILITIES = length_without_values(CLASSES) + MAX_PROBABILITY_LENGTH * len(CLASSES)
# The largest ratio of the length of a sample's response to that of the sample: 1.5 for iris.
RESPONSE_PER_BODY = LONGEST_PROBABILITIES / SHORTEST_SAMPLE


def digest_schema() -> str:
    """Return the SHA-256 digest of what schema.py says, apart from its comments and layout."""
    values = {name: value for name, value in vars(schema).items() if name.isupper()}
    values["Sample"] = msgspec.json.schema(Sample)
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()


decode_samples = msgspec.json.Decoder(Sample | list[Sample]).decode


def parse_samples(body: bytes) -> Sample | list[Sample]:
    """Return the sample or samples in a body.

    Raises BadRequest if the body is not JSON in UTF-8, and InvalidSamples if it is anything other
    than a sample or an array of samples.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check the UTF-8 of fields that it skips
        return decode_samples(body)
    except msgspec.ValidationError as error:  # a subclass of DecodeError, so it comes first
        abort_with_errors(body, str(error))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        abort_as_not_json(body, error)


def to_array(samples: list[Sample]) -> NDArray[np.float32]:
    """Return samples as float32, shape (n_samples, n_features); null becomes NaN."""
    values = chain.from_iterable(map(astuple, samples))  # NumPy converts None to NaN
    count = len(samples) * len(NAMES)
    return np.fromiter(values, np.float32, count).reshape(-1, len(NAMES))


class InvalidSamples(UnprocessableEntity):
    """The body is JSON, but neither a sample nor an array of samples."""

    def __init__(self, errors: list[dict[str, str]], complete: bool) -> None:
        description = f"Expected one {SAMPLE_NAME} or an array of them; see errors."
        if not complete:
            description += f" Only the first {MAX_ERRORS} are listed."
        super().__init__(description)
        self.errors = errors


def abort_with_errors(body: bytes, msgspec_error: str) -> NoReturn:
    """Raise InvalidSamples, or BadRequest if the body is not JSON.

    msgspec stopped at its error and did not read the rest of the body.
    """
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # reads all of it
        errors = list(islice(iter_errors(body), MAX_ERRORS + 1))
    except (msgspec.DecodeError, RecursionError) as error:
        abort_as_not_json(body, error)
    if not errors:  # a field occurs twice, and iter_errors sees the last one only, which is valid
        errors = [{"pointer": "", "detail": msgspec_error}]
    raise InvalidSamples(errors[:MAX_ERRORS], complete=len(errors) <= MAX_ERRORS)


def iter_errors(body: bytes) -> Iterator[dict[str, str]]:
    """Yield each error in what should be a sample or an array of samples."""
    try:
        samples = msgspec.json.decode(body, type=list[msgspec.Raw])
    except msgspec.ValidationError:  # not an array
        yield from iter_sample_errors(msgspec.Raw(body), "")
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
        if field.name not in values:
            received = f"but the field is missing{unknown_fields_clause(values)}"
        else:
            try:
                field.decode(values[field.name])
                continue
            except msgspec.ValidationError:
                received = f"got {quote(values[field.name])}"
        detail = f"expected {field.expectation()}, {received}"
        yield {"pointer": f"{pointer}/{escape(field.name)}", "detail": detail}


def unknown_fields_clause(values: dict[str, msgspec.Raw]) -> str:
    """Return a clause that names a sample's first unknown fields, one of which is often a typo."""
    names = list(islice((name for name in values if name not in NAMES), MAX_UNKNOWN))
    if not names:
        return ""
    noun = "unknown fields" if len(names) > 1 else "an unknown field"
    quoted = ", ".join(f"'{name[:MAX_QUOTED]}'" for name in names)
    return f"; the {SAMPLE_NAME} has {noun} {quoted}"


def quote(value: msgspec.Raw) -> str:
    """Return the beginning of a value, as it is written in the body."""
    return str(value, "utf-8")[:MAX_QUOTED]


def escape(name: str) -> str:
    """Return a name as a JSON pointer's token (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def abort_as_not_json(body: bytes, error: Exception) -> NoReturn:
    """Raise BadRequest; its description names NaN or Infinity if that is the cause."""
    reason = str(error)
    stopped = re.search(r"\(byte (\d+)\)$", reason)
    if stopped:
        position = int(stopped[1])
        constant = re.match(rb"NaN|Infinity", body[position : position + 8])
        if constant:
            reason = f"found {constant[0].decode()}{locate(body[:position])} (byte {position})"
    abort(400, f"The body is not JSON in UTF-8: {reason}.")


def locate(preceding: bytes) -> str:
    """Return " at POINTER" for the value that follows, or "" if it cannot be located."""
    name = re.search(rb'"([^"\\]*)"\s*:\s*-?$', preceding)  # the minus is that of -Infinity
    opened = preceding.rfind(b"{")
    if name is None or opened == -1:
        return ""
    pointer = escape(name[1].decode())
    earlier = preceding[:opened].strip(b" \t\r\n,")  # the samples before it: [{...},{...}
    if not earlier:
        return f" at /{pointer}"
    try:
        index = len(msgspec.json.decode(earlier + b"]", type=list[msgspec.Raw]))
    except (msgspec.DecodeError, RecursionError):  # an object within a sample
        return ""
    return f" at /{index}/{pointer}"

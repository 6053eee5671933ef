"""Write a draft of schema.py for a CSV: python model/draft_schema.py CSV CLASS_COLUMN

The draft works as it is: one field per numeric column, within limits from the data, and the
classes in sorted order. Check its limits and add units; the comments say where.
"""

import csv
import json
import keyword
import math
import re
import sys
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_LINE = 100  # characters, as in pyproject.toml


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("Expected two arguments: python model/draft_schema.py CSV CLASS_COLUMN")
    text = draft(Path(sys.argv[1]), sys.argv[2])
    (ROOT / "schema.py").write_text(text, "utf-8")
    print(
        "Wrote schema.py. Check its limits, the order of its classes and PUBLISH_DATA, add units, "
        "remove fields that are not features, then run: python model/train.py"
    )


def draft(path: Path, class_column: str) -> str:
    """Return the text of schema.py for a CSV; raise SystemExit if it cannot be drafted.

    Prints on stderr which columns are left out because they are not numbers.
    """
    columns = read_columns(path)
    if class_column not in columns:
        raise SystemExit(f"{path} must have the column '{class_column}', not just {[*columns]}.")
    classes = sort_classes(columns.pop(class_column))
    if "" in classes:
        raise SystemExit(
            f"{path}: column '{class_column}' must not have empty cells. Remove the lines that "
            "contain them."
        )
    if len(classes) < 2:
        raise SystemExit(f"{path}: column '{class_column}' must have two or more classes.")
    json_names = {to_json_name(class_column).lower(): class_column}
    fields = []
    omitted = {}  # from column to a cell that is not a number
    for column, cells in columns.items():
        other = json_names.setdefault(to_json_name(column).lower(), column)
        if other != column:
            raise SystemExit(
                f"{path}: the columns '{other}' and '{column}' must differ in more than case and "
                "punctuation. Rename one."
            )
        non_number = find_non_number(cells)
        if non_number is None:
            fields.append(draft_field(column, cells))
        else:
            omitted[column] = non_number
    if len(fields) < 2:
        raise SystemExit(f"{path} must have two or more numeric columns besides '{class_column}'.")
    if omitted:
        found = ", ".join(f"{column!r} (contains {cell!r})" for column, cell in omitted.items())
        print(
            f"Left out, because they are not numeric: {found}. To keep one, leave cells with "
            "unknown values empty, or replace a column of categories with one 0/1 column per "
            "category, in the CSV and in what clients send.",
            file=sys.stderr,
        )
    return fill_template(path, class_column, classes, fields, list(omitted))


def read_columns(path: Path) -> dict[str, list[str]]:
    """Return the cells of a CSV by column, without columns that have no name.

    Raises SystemExit if the file is not a table.
    """
    header, rows = read_csv(path, str(path))
    header = [name.strip() for name in header]
    if not rows:
        raise SystemExit(f"{path} must have a header, and then one sample per line.")
    if len(header) == 1:
        raise SystemExit(f"{path} must have columns separated by commas, not just '{header[0]}'.")
    names = [name for name in header if split_words(name)]  # pandas writes its index without a name
    if len(set(names)) < len(names):
        raise SystemExit(f"{path} must have a header with unique names, not {header}.")
    for line, row in rows:
        if len(row) != len(header):
            raise SystemExit(f"{path}, line {line}: expected {len(header)} cells, got {len(row)}.")
    return {
        name: [row[index].strip() for _, row in rows]
        for index, name in enumerate(header)
        if name in names
    }


def read_csv(path: Path, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a CSV and its rows with their line numbers.

    Raises SystemExit if the file cannot be read; `name` is what the message calls it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            return header, [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SystemExit(f"{name} cannot be read as CSV in UTF-8: {error}.") from error


def sort_classes(cells: list[str]) -> list[str]:
    """Return the distinct classes, sorted by value if all are numbers."""
    in_order = sorted(set(cells))
    try:
        return sorted(in_order, key=float)
    except ValueError:
        return in_order


# ---- Fields --------------------------------------------------------------------------------


def split_words(column: str) -> list[str]:
    """Return the words of a column's name: "petal length (cm)" has petal, length and cm.

    "MonthlyCharges" has monthly and charges. Python also applies NFKC to names: a superscript 2
    becomes a 2.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", unicodedata.normalize("NFKC", column))
    return re.findall(r"[^\W_]+", spaced)


def to_json_name(column: str) -> str:
    """Return the field's name in JSON, as msgspec's rename="camel" makes it of the words."""
    first, *others = (word.lower() for word in split_words(column))
    return first + "".join(word.capitalize() for word in others)


def find_non_number(cells: list[str]) -> str | None:
    """Return the first cell of a column that is not a finite number, or "" if all are empty."""
    for cell in cells:
        try:
            is_number = not cell or math.isfinite(float(cell))
        except ValueError:
            is_number = False
        if not is_number:
            return cell
    return None if any(cells) else ""


def draft_field(column: str, cells: list[str]) -> str:
    """Return the definition of a field, in one line if it fits."""
    values = [float(cell) for cell in cells if cell]
    is_integer = all(re.fullmatch(r"[-+]?\d+", cell) for cell in cells if cell)
    low, high = round_outward(min(values), max(values), is_integer)
    meta = f"msgspec.Meta(ge={low}, le={high}{', multiple_of=1' if is_integer else ''})"
    is_optional = "" in cells
    name = "_".join(word.lower() for word in split_words(column))
    argument = ""  # of msgspec.field, for a name that Python or the draft does not allow
    if not name.isidentifier() or keyword.iskeyword(name) or name in ("float", "msgspec"):
        name = f"_{name}"
        argument = f"name={quote(to_json_name(column))}"
    assignment = f" = msgspec.field({argument})" if argument else ""
    line = f"    {name}: Annotated[float, {meta}]{' | None' if is_optional else ''}{assignment}"
    if len(line) <= MAX_LINE:
        return line
    template = LONG_OPTIONAL_FIELD if is_optional else LONG_FIELD
    assignment = f" = msgspec.field(\n        {argument},\n    )" if argument else ""
    return template.format(name=name, meta=meta) + assignment


# The commas at the ends keep ruff from joining the lines.
LONG_FIELD = """\
    {name}: Annotated[
        float,
        {meta},
    ]"""

LONG_OPTIONAL_FIELD = """\
    {name}: (
        Annotated[
            float,
            {meta},
        ]
        | None
    )"""


def round_outward(low: float, high: float, is_integer: bool) -> tuple[float, float]:
    """Return round limits that leave a small margin around values.

    They are multiples of 1, 2 or 5 times a power of ten, and not negative if no value is. Whole
    numbers in a range of less than 8, such as 0 and 1, get no margin.
    """
    if low == high:
        high = low + max(1, abs(low))
    if is_integer and high - low < 8:
        return int(low), int(high)
    largest_unit = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(largest_unit))
    unit = max(
        factor * power for factor in (1, 2, 5) if factor == 1 or factor * power <= largest_unit
    )
    margin = (high - low) / 50
    rounded_low = math.floor((low - margin) / unit) * unit
    rounded_high = math.ceil((high + margin) / unit) * unit
    if low >= 0:
        rounded_low = max(rounded_low, 0.0)
    return to_readable(rounded_low), to_readable(rounded_high)


def to_readable(value: float) -> float:
    """Return a number without the noise of binary arithmetic, as an int if it is whole."""
    rounded = float(f"{value:.15g}")
    return int(rounded) if rounded.is_integer() else rounded


# ---- schema.py -----------------------------------------------------------------------------

TEMPLATE = '''\
"""What a sample is and what the classes are: the one module to edit to serve another data set.

After an edit, `python model/train.py` (or `python model/publish.py FILE`, for a model trained
elsewhere) checks this file against the data and writes everything that depends on it.
"""

from typing import Annotated

import msgspec

TITLE = {title}
DESCRIPTION = "Predicts the class of a sample."

# A header line, then one sample per line.
DATA = {data}
# The column of DATA that contains the class.
CLASS = {class_column}
# The values in that column. The position of a name here is its label in the API: 0, 1 and so on.
CLASSES = {classes}
# Two rows of DATA, counted from 0 after the header, of different classes: the examples throughout
# the documentation. If None, these are the medians of the two largest classes.
EXAMPLES = None
# Whether the demo page and the documentation may show rows of DATA to anyone who can reach the
# service. If False, EXAMPLES must be None.
PUBLISH_DATA = False


# gc=False: a row is never part of a reference cycle.
class Row(msgspec.Struct, rename="camel", gc=False):
    """One row of DATA, with its fields in the order that the model expects."""

    # The limits are those of the data, rounded outward: check them. A unit is a description:
    # msgspec.Meta(ge=0, le=100, description="in cm").
{omitted}{fields}


Sample = Row  # the name under which the other modules import it
'''


def fill_template(
    path: Path, class_column: str, classes: list[str], fields: list[str], omitted: list[str]
) -> str:
    data = path.resolve()
    if not data.is_relative_to(ROOT):
        raise SystemExit(f"{path} must be in this repository. Copy it to model/ first.")
    names = ", ".join(quote(name) for name in classes)
    tuple_of_classes = f"({names})"
    if len(names) > 80:
        lines = "".join(f"    {quote(name)},\n" for name in classes)
        tuple_of_classes = f"(\n{lines})"
    comments = [
        f"    # Left out, because it is not numeric: {quote(name):.50}\n" for name in omitted
    ]
    text = TEMPLATE.format(
        title=quote(f"{' '.join(split_words(path.stem)).capitalize()} prediction service"),
        data=quote(data.relative_to(ROOT).as_posix()),
        class_column=quote(class_column),
        classes=tuple_of_classes,
        omitted="".join(comments),
        fields="\n".join(fields),
    )
    if any(len(line) > MAX_LINE for line in text.split("\n")):  # because of a long name
        text = text.replace("\nfrom typing", "\n# ruff: noqa: E501\n# fmt: off\nfrom typing", 1)
    return text


def quote(text: str) -> str:
    """Return a text as a Python literal, quoted as ruff would."""
    literal = json.dumps(text, ensure_ascii=False)
    if text.count('"') > text.count("'"):
        inner = literal[1:-1].replace('\\"', '"').replace("'", "\\'")
        return f"'{inner}'"
    return literal


if __name__ == "__main__":
    main()

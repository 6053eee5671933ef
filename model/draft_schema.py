"""Draft schema.py from a CSV: python model/draft_schema.py CSV CLASS_COLUMN

The draft serves as it is: one field per column of numbers, within limits from the data, and the
classes in sorted order. Check its limits and add units; the comments say where.
"""

import csv
import json
import keyword
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("Expected two arguments: python model/draft_schema.py CSV CLASS_COLUMN")
    text = draft(Path(sys.argv[1]), sys.argv[2])
    (ROOT / "schema.py").write_text(text, "utf-8")
    print("Wrote schema.py. Check its limits, add units, then run: python model/train.py")


def draft(path: Path, class_column: str) -> str:
    """Return the text of schema.py for a CSV; raise SystemExit if it cannot be drafted.

    Prints on stderr which columns are left out because they are not numbers.
    """
    columns = read_columns(path)
    if class_column not in columns:
        raise SystemExit(f"{path} must have the column '{class_column}', not just {[*columns]}.")
    classes = sort_classes(columns.pop(class_column))
    if len(classes) < 2:
        raise SystemExit(f"Column '{class_column}' of {path} must have two or more classes.")
    fields: dict[str, str] = {}
    omitted = []
    for column, cells in columns.items():
        line = draft_field(column, cells)
        if line is None:
            omitted.append(column)
            continue
        json_name = to_json_name(column)
        if json_name.lower() in fields:
            raise SystemExit(
                f"{path}: two columns would become the field {json_name}, one of them '{column}'. "
                "Rename one."
            )
        fields[json_name.lower()] = line
    if not fields:
        raise SystemExit(f"{path} must have columns of numbers other than '{class_column}'.")
    if omitted:
        print(
            f"Left out, because they are not numbers: {omitted}. Replace each by one 0/1 column "
            "per category, in the CSV and in what clients send.",
            file=sys.stderr,
        )
    return fill_template(path, class_column, classes, list(fields.values()), omitted)


def read_columns(path: Path) -> dict[str, list[str]]:
    """Return the cells of a CSV, by column; raise SystemExit if it is not a table."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            rows = [row for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SystemExit(f"{path} cannot be read as CSV in UTF-8: {error}.") from error
    if len(set(header)) < len(header) or not all(map(split_words, header)):
        raise SystemExit(f"{path} must have a header with different names, not {header}.")
    if not rows or any(len(row) != len(header) for row in rows):
        raise SystemExit(f"{path} must have {len(header)} cells in each line, as in its header.")
    cells = zip(*rows, strict=True)
    return {
        name: [cell.strip() for cell in of_column]
        for name, of_column in zip(header, cells, strict=True)
    }


def sort_classes(cells: list[str]) -> list[str]:
    """Return the different classes, by value if all are numbers."""
    classes = set(cells)
    if "" in classes:
        raise SystemExit("The class must not be missing: remove the lines with an empty cell.")
    try:
        return sorted(classes, key=float)
    except ValueError:
        return sorted(classes)


# ---- Fields --------------------------------------------------------------------------------


def split_words(column: str) -> list[str]:
    """Return the words of a column's name: "petal length (cm)" has petal, length and cm."""
    return re.findall(r"[^\W_]+", column)


def to_json_name(column: str) -> str:
    """Return the field's name in JSON, as msgspec's rename="camel" makes it of the words."""
    first, *others = (word.lower() for word in split_words(column))
    return first + "".join(word.capitalize() for word in others)


def draft_field(column: str, cells: list[str]) -> str | None:
    """Return the line of a field, or None for a column that is not numbers."""
    try:
        values = [float(cell) for cell in cells if cell]
    except ValueError:
        return None
    if not values or not all(map(math.isfinite, values)):
        return None
    is_integer = all(re.fullmatch(r"[-+]?\d+", cell) for cell in cells if cell)
    low, high = round_outward(min(values), max(values), is_integer)
    name = "_".join(word.lower() for word in split_words(column))
    default = ""
    if not name.isidentifier() or keyword.iskeyword(name):
        default = f' = msgspec.field(name="{to_json_name(column)}")'
        name = f"_{name}"
    arguments = f"ge={low}, le={high}{', multiple_of=1' if is_integer else ''}"
    optional = " | None" if "" in cells else ""
    line = f"    {name}: Annotated[float, msgspec.Meta({arguments})]{optional}{default}"
    if len(line) > 100:
        line = (
            f"    {name}: Annotated[\n"
            f"        float, msgspec.Meta({arguments})\n"
            f"    ]{optional}{default}"
        )
    return line


def round_outward(low: float, high: float, is_integer: bool = False) -> tuple[float, float]:
    """Return readable limits around values, a little apart from them.

    They are multiples of 1, 2 or 5 times a power of ten, and not negative if no value is. A few
    whole numbers, such as 0 and 1, are their own limits.
    """
    if low == high:
        high = low + 1
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


def find_step(low: float, high: float) -> float:
    """Return the step of a slider: the power of ten that makes 25 steps or more of a range."""
    return to_readable(10.0 ** math.floor(math.log10((high - low) / 25)))


def to_readable(value: float) -> float:
    """Return a number without the noise of binary arithmetic, as an int if it is whole."""
    rounded = float(f"{value:.12g}")
    return int(rounded) if rounded.is_integer() else rounded


# ---- schema.py -----------------------------------------------------------------------------

TEMPLATE = '''\
"""What a sample is and what the classes are: the one file to edit for another data set.

After an edit, `python model/train.py` (or `python model/publish.py FILE`, for a model trained
elsewhere) checks this file against the data and writes everything that depends on it.
"""

from typing import Annotated

import msgspec

TITLE = "{title}"
DESCRIPTION = "A sample in, its class out."

DATA = {data}  # a header line, then one sample per line
CLASS = {class_column}  # the column of DATA that contains the class
# The names in that column, in the order of their indices.
CLASSES = {classes}
# Two rows of DATA, of different classes, that all documentation shows. None: medians instead.
EXAMPLES = None
# Whether the demo page and the documentation may show rows of DATA to all who reach the service.
PUBLISH_DATA = False


class Row(msgspec.Struct, rename="camel", gc=False):  # gc: a row is never part of a cycle
    """One row of DATA, its fields in the model's order."""

    # The limits are those of the data, rounded outward: check them. Units are descriptions:
    # msgspec.Meta(ge=0, le=100, description="in cm").
{omitted}{fields}


Sample = Row
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
    comments = [f"    # Left out, because it is not numbers: {name:.50}\n" for name in omitted]
    return TEMPLATE.format(
        title=f"{path.stem[:1].upper()}{path.stem[1:]} prediction service",
        data=quote(data.relative_to(ROOT).as_posix()),
        class_column=quote(class_column),
        classes=tuple_of_classes,
        omitted="".join(comments),
        fields="\n".join(fields),
    )


def quote(text: str) -> str:
    """Return a text as a Python literal with double quotes."""
    return json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    main()

"""How data and schema.py are rejected, and what model/draft_schema.py drafts from a CSV."""

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest

import draft_schema
import publish
import schema
import validation
from tests.service import tool

ROOT = Path(__file__).parents[1]


class Part(msgspec.Struct, rename="camel"):
    width_cm: Annotated[float, msgspec.Meta(ge=0, le=10, description="in cm")]
    n_holes: Annotated[float, msgspec.Meta(ge=1, le=5, multiple_of=1)]
    weight: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None


TABLE = """\
Weight,Width (cm),color,n_holes,kind
0.5,1.5,red,2,bolt
,2.5,red,3,bolt
-0.5,8.5,blue,4,nut
1,9.5,blue,5,nut
"""
COLUMNS = ["Weight", "Width (cm)", "color", "n_holes", "kind"]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def use_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that gives publish.py another schema, in the folder tmp_path."""

    def use(**names: Any) -> None:
        fields = validation.read_fields(names["Sample"])
        monkeypatch.setattr(publish, "schema", SimpleNamespace(**names))
        monkeypatch.setattr(publish, "FIELDS", fields)
        monkeypatch.setattr(publish, "NAMES", [field.name for field in fields])
        monkeypatch.setattr(publish, "CLASSES", list(names["CLASSES"]))
        monkeypatch.setattr(publish, "ROOT", tmp_path)
        for cached in (publish.read_table, publish.read_data):
            monkeypatch.setattr(publish, cached.__name__, cached.__wrapped__)

    return use


PARTS: dict[str, Any] = {
    "Sample": Part,
    "DATA": "parts.csv",
    "CLASS": "kind",
    "CLASSES": ("bolt", "nut"),
    "EXAMPLES": (3, 0),
    "PUBLISH_DATA": True,
}


# ---- The data ------------------------------------------------------------------------------


def test_columns_are_matched_by_name(
    use_schema: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_schema(**PARTS)
    (tmp_path / "parts.csv").write_text(f"\ufeff{TABLE}\n", "utf-8")  # with a byte order mark
    samples, classes = publish.read_data()
    expected = [[1.5, 2, 0.5], [2.5, 3, np.nan], [8.5, 4, -0.5], [9.5, 5, 1]]
    np.testing.assert_array_equal(samples, expected)
    assert classes.tolist() == [0, 0, 1, 1]
    assert publish.choose_examples(samples, classes).tolist() == [[9.5, 5, 1], [1.5, 2, 0.5]]
    assert capsys.readouterr().out == "parts.csv: ignoring the columns ['color'].\n"


def test_examples_are_medians_that_the_fields_allow(
    use_schema: Callable[..., None], tmp_path: Path
) -> None:
    use_schema(**PARTS | {"EXAMPLES": None, "PUBLISH_DATA": False})
    (tmp_path / "parts.csv").write_text(TABLE, "utf-8")
    assert publish.choose_examples(*publish.read_data()).tolist() == [[2, 2, 0.5], [9, 4, 0.25]]


REJECTED: dict[str, tuple[str, str, str]] = {
    # What replaces what in TABLE, and the error.
    "empty": (TABLE, "", "parts.csv is empty: expected a header with the columns "
        "['widthCm', 'nHoles', 'weight', 'kind']."),
    "column is absent": ("Width (cm)", "Width (in)",
        "parts.csv must have exactly one column named 'widthCm', not 0. Its columns are "
        "['Weight', 'Width (in)', 'color', 'n_holes', 'kind']."),
    "column occurs twice": ("color", "weight",
        "parts.csv must have exactly one column named 'weight', not 2. Its columns are "
        "['Weight', 'Width (cm)', 'weight', 'n_holes', 'kind']."),
    "no column of classes": ("kind", "type",
        "parts.csv must have exactly one column named 'kind', not 0. Its columns are "
        "['Weight', 'Width (cm)', 'color', 'n_holes', 'type']."),
    "semicolons": (TABLE, TABLE.replace(",", ";"),
        "parts.csv must have exactly one column named 'widthCm', not 0. Its columns are "
        "['Weight;Width (cm);color;n_holes;kind']."),
    "too few cells": ("0.5,1.5", "1.5", "parts.csv, line 2: expected 5 cells, got 4."),
    "too many cells": ("0.5,1.5", "0,5,1.5", "parts.csv, line 2: expected 5 cells, got 6."),
    "text": ("2.5", "wide", "parts.csv, line 3, column 'widthCm': expected a number from 0 to "
        "10 (in cm), got 'wide'."),
    "nan": ("2.5", "nan", "parts.csv, line 3, column 'widthCm': expected a number from 0 to 10 "
        "(in cm), got 'nan'."),
    "infinity": ("2.5", "inf", "parts.csv, line 3, column 'widthCm': expected a number from 0 to "
        "10 (in cm), got 'inf'."),
    "too low": ("2.5", "-0.1", "parts.csv, line 3, column 'widthCm': expected a number from 0 to "
        "10 (in cm), got '-0.1'."),
    "too high": ("2.5", "10.1", "parts.csv, line 3, column 'widthCm': expected a number from 0 "
        "to 10 (in cm), got '10.1'."),
    "empty cell": ("2.5", " ", "parts.csv, line 3, column 'widthCm': expected a number from 0 to "
        "10 (in cm), but the cell is empty."),
    "not whole": ("3,bolt", "3.5,bolt", "parts.csv, line 3, column 'nHoles': expected a whole "
        "number from 1 to 5, got '3.5'."),
    "null": ("-0.5", "null", "parts.csv, line 4, column 'weight': expected a number from -1 to "
        "1 or an empty cell, got 'null'."),
    "no value": (TABLE, TABLE.replace("0.5,1.5", ",1.5").replace("-0.5", "").replace("1,9", ",9"),
        "parts.csv: column 'weight' must have at least one value."),
    "unknown class": ("5,nut", "5,Nut", "parts.csv, line 5, column 'kind': expected one of "
        "['bolt', 'nut'], got 'Nut'."),
    "class without samples": (TABLE, TABLE.replace("nut", "bolt"),
        "parts.csv must have at least two samples of each class, not 0 of 'nut'."),
    "class with one sample": ("4,nut", "4,bolt",
        "parts.csv must have at least two samples of each class, not 1 of 'nut'."),
    "not UTF-8": ("red", "\udcff", "parts.csv cannot be read as CSV in UTF-8: 'utf-8' codec can't "
        "decode byte 0xff in position 45: invalid start byte."),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), REJECTED.values(), ids=REJECTED)
def test_invalid_data_is_rejected(
    use_schema: Callable[..., None], tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TABLE
    use_schema(**PARTS)
    text = TABLE.replace(old, new, 1)
    (tmp_path / "parts.csv").write_text(text, "utf-8", errors="surrogateescape")
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as exited:
        publish.publish(None)
    assert exited.value.code == message
    assert contents(tmp_path) == before


def test_absent_csv_is_rejected(use_schema: Callable[..., None], tmp_path: Path) -> None:
    use_schema(**PARTS)
    with pytest.raises(SystemExit) as exited:
        publish.publish(None)
    assert exited.value.code == (
        "parts.csv cannot be read as CSV in UTF-8: [Errno 2] No such file or directory: "
        f"'{tmp_path / 'parts.csv'}'."
    )


# ---- schema.py -----------------------------------------------------------------------------


class Colliding(msgspec.Struct):
    width: Annotated[float, msgspec.Meta(ge=0, le=10)]
    Width: Annotated[float, msgspec.Meta(ge=0, le=10)]


WIDTH = Annotated[float, msgspec.Meta(ge=0, le=1)]
MUST_DIFFER = "must differ from all other names in more than case and punctuation."
INVALID_SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "one class": (
        {"CLASSES": ("bolt",)},
        "schema.py: CLASSES must be two or more different strings, not ['bolt'].",
    ),
    "same class twice": (
        {"CLASSES": ("bolt", "nut", "nut")},
        "schema.py: CLASSES must be two or more different strings, not ['bolt', 'nut', 'nut'].",
    ),
    "classes are numbers": (
        {"CLASSES": (0, 1)},
        "schema.py: CLASSES must be two or more different strings, not [0, 1].",
    ),
    "too many classes": (
        {"CLASSES": ("bolt", "nut", "gear")},
        "parts.csv must have at least two samples of each class, not 0 of 'gear'.",
    ),
    "one field": (
        {"Sample": msgspec.defstruct("Row", [("width", WIDTH)])},
        "schema.py: the sample must have two or more fields, not just ['width'].",
    ),
    "fields collide": ({"Sample": Colliding}, f"schema.py: 'width' {MUST_DIFFER}"),
    "field and class collide": ({"CLASS": "nHoles"}, f"schema.py: 'nHoles' {MUST_DIFFER}"),
    "example outside": (
        {"EXAMPLES": (0, 4)},
        "schema.py: EXAMPLES must be two row numbers from 0 to 3, not (0, 4).",
    ),
    "negative example": (
        {"EXAMPLES": (-1, 0)},
        "schema.py: EXAMPLES must be two row numbers from 0 to 3, not (-1, 0).",
    ),
    "one example": (
        {"EXAMPLES": (0,)},
        "schema.py: EXAMPLES must be two row numbers from 0 to 3, not (0,).",
    ),
    "examples of one class": (
        {"EXAMPLES": (2, 3)},
        "schema.py: EXAMPLES must be of different classes, but (2, 3) are both 'nut'.",
    ),
    "examples of private data": (
        {"PUBLISH_DATA": False},
        "schema.py: EXAMPLES must be None, because PUBLISH_DATA is False.",
    ),
}


@pytest.mark.parametrize(("names", "message"), INVALID_SCHEMAS.values(), ids=INVALID_SCHEMAS)
def test_invalid_schema_is_rejected(
    use_schema: Callable[..., None], tmp_path: Path, names: dict[str, Any], message: str
) -> None:
    (tmp_path / "parts.csv").write_text(TABLE, "utf-8")
    use_schema(**PARTS | names)
    with pytest.raises(SystemExit) as exited:
        publish.publish(None)
    assert exited.value.code == message
    assert contents(tmp_path) == {"parts.csv": TABLE.encode()}


LIMITS = (
    "schema.py: width must have both limits, as in msgspec.Meta(ge=0, le=100), and no multiple_of "
    "other than 1 (for whole numbers)."
)
FLOAT = "schema.py: width must be float or float | None."
FINITE = "schema.py: width must have ge < le, and both must be finite in float32."
NO_DEFAULT = "schema.py: width must not have a default value."
INVALID_FIELDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "default": ((WIDTH, 0.5), NO_DEFAULT),
    "default None": ((WIDTH | None, None), NO_DEFAULT),
    "no limits": ((float,), LIMITS),
    "optional, no limits": ((float | None,), LIMITS),
    "one limit": ((Annotated[float, msgspec.Meta(ge=0)],), LIMITS),
    "exclusive limit": ((Annotated[float, msgspec.Meta(gt=0, le=1)],), LIMITS),
    "multiple of a half": ((Annotated[float, msgspec.Meta(ge=0, le=1, multiple_of=0.5)],), LIMITS),
    "descending": ((Annotated[float, msgspec.Meta(ge=1, le=0)],), FINITE),
    "infinite in float32": ((Annotated[float, msgspec.Meta(ge=0, le=1e39)],), FINITE),
    "int": ((Annotated[int, msgspec.Meta(ge=0, le=1)],), FLOAT),
    "text": ((str,), FLOAT),
    "list": ((list[float],), FLOAT),
    "float or text": ((WIDTH | str,), FLOAT),
    "float, text or null": ((WIDTH | str | None,), FLOAT),
}


@pytest.mark.parametrize(("field", "message"), INVALID_FIELDS.values(), ids=INVALID_FIELDS)
def test_field_that_cannot_be_served_is_rejected(field: tuple[Any, ...], message: str) -> None:
    struct = msgspec.defstruct("Row", [("width", *field)])
    with pytest.raises(SystemExit) as exited:
        validation.read_fields(struct)
    assert exited.value.code == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import msgspec\n\n"
            "class Row(msgspec.Struct, rename='camel'):\n"
            "    pixel_1_11: float\n"
            "    pixel_11_1: float\n",
            "schema.py cannot be used: Multiple fields rename to the same name, "
            "field names must be unique.",
        ),
        ("width: flaot", "schema.py cannot be used: name 'flaot' is not defined."),
        ("width float", "schema.py cannot be used: invalid syntax (schema.py, line 1)."),
    ],
    ids=["colliding names", "unknown name", "syntax"],
)
def test_schema_that_cannot_be_imported_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    shutil.copytree(ROOT / "model", tmp_path / "model")
    (tmp_path / "schema.py").write_text(text, "utf-8")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "schema")
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(tmp_path / "model" / "publish.py"))
    assert exited.value.code == message


def test_train_with_invalid_data_is_one_line_and_changes_no_file(tmp_path: Path) -> None:
    for path in [*ROOT.glob("*.py"), ROOT / "README.md"]:
        shutil.copy(path, tmp_path)
    for folder in ("model", "static"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    with (tmp_path / schema.DATA).open("a", encoding="utf-8") as file:
        file.write("\n1\n")
    before = contents(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-B", "model/train.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 1
    pattern = rf"{re.escape(schema.DATA)}, line \d+: expected \d+ cells, got 1\.\n"
    assert re.fullmatch(pattern, ended.stderr)
    assert contents(tmp_path) == before


# ---- The draft -----------------------------------------------------------------------------


@pytest.fixture
def draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that drafts schema.py from a CSV in tmp_path."""
    monkeypatch.setattr(draft_schema, "ROOT", tmp_path)

    def draft(table: str, class_column: str = "kind", name: str = "table.csv") -> str:
        path = tmp_path / name
        path.write_text(table, "utf-8")
        return draft_schema.draft(path, class_column)

    return draft


def limits(low: float, high: float, *more: Any) -> tuple[Any, ...]:
    is_integer, is_optional = "whole" in more, "optional" in more
    return low, high, is_integer, is_optional


# From a CSV to the fields by JSON name: limits, whether whole, whether optional; and the classes.
DRAFTS: dict[str, tuple[str, dict[str, tuple[Any, ...]], tuple[str, ...]]] = {
    "names as owners write them": (
        "mean radius,Delta (%),kind\n1.5,-3.5,a\n2.5,4,b\n",
        {"meanRadius": limits(1.4, 2.6), "delta": limits(-4, 4.5)},
        ("a", "b"),
    ),
    "byte order mark": (
        "\ufeffwidth,height,kind\n1.5,7,a\n2.5,7,b\n",
        {"width": limits(1.4, 2.6), "height": limits(7, 14, "whole")},
        ("a", "b"),
    ),
    "not Python names": (
        "class,2nd_flr,float,kind\n1,2,0,a\n2,3,1,b\n",
        {
            "class": limits(1, 2, "whole"),
            "2ndFlr": limits(2, 3, "whole"),
            "float": limits(0, 1, "whole"),
        },
        ("a", "b"),
    ),
    "other letters": (
        "Größe (m²),µ,kind\n1.5,0,ä\n2.5,1,ö\n",
        {"größeM2": limits(1.4, 2.6), "μ": limits(0, 1, "whole")},
        ("ä", "ö"),
    ),
    "empty cells": (
        "width,n_holes,kind\n1.5,,a\n,2,b\n2.5,4,b\n",
        {"width": limits(1.4, 2.6, "optional"), "nHoles": limits(2, 4, "whole", "optional")},
        ("a", "b"),
    ),
    "numeric classes": (
        "width,height,kind\n1,7,10\n2,7,2\n3,7,1\n4,7,0\n",
        {"width": limits(1, 4, "whole"), "height": limits(7, 14, "whole")},
        ("0", "1", "2", "10"),
    ),
    "constant columns": (
        "zero,large,negative,kind\n0,1e17,-5,a\n0,1e17,-5,b\n",
        {
            "zero": limits(0, 1, "whole"),
            "large": limits(9e16, 2.1e17),
            "negative": limits(-5, 0, "whole"),
        },
        ("a", "b"),
    ),
    "negative numbers": (
        "width,height,kind\n-500000,-3,a\n-0.001,-2,b\n",
        {"width": limits(-550_000, 50_000), "height": limits(-3, -2, "whole")},
        ("a", "b"),
    ),
    "close numbers": (
        "time,height,kind\n1700000000.1234,7,a\n1700000000.1239,7,b\n",
        {"time": limits(1700000000.12335, 1700000000.12395), "height": limits(7, 14, "whole")},
        ("a", "b"),
    ),
    "quotes in classes": (
        'width,height,kind\n1,7,"say ""a"""\n2,7,it\'s\n3,7,back\\slash\n4,7,"it\'s ""b"""\n',
        {"width": limits(1, 4, "whole"), "height": limits(7, 14, "whole")},
        ("back\\slash", "it's", 'it\'s "b"', 'say "a"'),
    ),
    "unnamed index": (
        ",width,height,kind\n0,1.5,7,a\n1,2.5,7,b\n",
        {"width": limits(1.4, 2.6), "height": limits(7, 14, "whole")},
        ("a", "b"),
    ),
}
# Columns with names of 3 to 121 characters, with and without empty cells, and many classes.
N_LONG = 121
LONG = (
    ",".join([*(f"{index} {'c' * index}" for index in range(1, N_LONG - 1)), "d " * 50, "e" * 120])
    + ",kind\n"
    + "".join(f"{',' * (N_LONG - 2)}1,2.5,class number {index:02}\n" for index in range(30))
    + "".join(f"{'1.5,' * N_LONG}class number {index:02}\n" for index in range(30))
)


@pytest.mark.parametrize(("table", "fields", "classes"), DRAFTS.values(), ids=DRAFTS)
def test_draft_describes_the_data(
    draft: Callable[..., str],
    use_schema: Callable[..., None],
    tmp_path: Path,
    table: str,
    fields: dict[str, tuple[Any, ...]],
    classes: tuple[str, ...],
) -> None:
    path = tmp_path / "schema.py"
    path.write_text(draft(table), "utf-8")
    drafted = runpy.run_path(str(path))
    assert drafted["CLASSES"] == classes
    found = {
        field.name: (field.minimum, field.maximum, field.is_integer, field.is_optional)
        for field in validation.read_fields(drafted["Sample"])
    }
    assert found == fields
    lines = table.rstrip().split("\n")
    (tmp_path / "table.csv").write_text("\n".join([*lines, *lines[1:]]), "utf-8")
    use_schema(**drafted)
    samples, indices = publish.read_data()  # raises SystemExit if the draft does not fit
    publish.choose_examples(samples, indices)
    assert (drafted["EXAMPLES"], drafted["PUBLISH_DATA"]) == (None, False)


def test_draft_has_long_names(draft: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "schema.py"
    path.write_text(draft(LONG), "utf-8")
    drafted = runpy.run_path(str(path))
    fields = validation.read_fields(drafted["Sample"])
    assert [field.is_optional for field in fields] == [True] * (N_LONG - 2) + [False] * 2
    assert [fields[1].name, fields[-1].name] == ["2Cc", "e" * 120]
    assert len(drafted["CLASSES"]) == 30


@pytest.mark.slow  # ruff and mypy are not in requirements.txt
@pytest.mark.parametrize(
    "table", [*(table for table, *_ in DRAFTS.values()), LONG], ids=[*DRAFTS, "long names"]
)
def test_draft_passes_ruff_and_mypy(draft: Callable[..., str], tmp_path: Path, table: str) -> None:
    path = tmp_path / "schema.py"
    path.write_text(draft(table), "utf-8")
    configuration = ROOT / "pyproject.toml"
    for command in (
        [tool("ruff"), "check", "--config", configuration, path],
        [tool("ruff"), "format", "--check", "--config", configuration, path],
        [tool("mypy"), "--strict", path],
    ):
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout


def test_draft_leaves_out_text_with_the_cure(
    draft: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = draft("width,height,color,age,note,kind\n1.5,7,red,3,,a\n2.5,7,blue,NA,,b\n")
    assert '    # Left out, because it is not numeric: "color"\n' in text
    assert "color:" not in text
    assert capsys.readouterr().err == (
        "Left out, because they are not numeric: 'color' (contains 'red'), 'age' (contains 'NA'), "
        "'note' (contains ''). To keep one, leave cells with unknown values empty, or replace "
        "a column of categories with one 0/1 column per category, in the CSV and in what clients "
        "send.\n"
    )


NOT_DRAFTED = {
    "semicolons": ("a;b;kind\n1,5;2;x\n", "must have columns separated by commas, not just "
        "'a;b;kind'."),
    "empty": ("", "must have a header, and then one sample per line."),
    "header only": ("a,kind\n", "must have a header, and then one sample per line."),
    "no such column": ("a,b\n1,x\n", "must have the column 'kind', not just ['a', 'b']."),
    "same column twice": ("a,a,kind\n1,2,x\n", "must have a header with unique names, not "
        "['a', 'a', 'kind']."),
    "names collide": ("pixel_1_11,pixel_11_1,kind\n1,2,x\n2,1,y\n", ": the columns 'pixel_1_11' "
        "and 'pixel_11_1' must differ in more than case and punctuation. Rename one."),
    "class collides": ("Kind,kind\n1,x\n2,y\n", ": the columns 'kind' and 'Kind' must differ in "
        "more than case and punctuation. Rename one."),
    "other number of cells": ("a,kind\n1,x\n1,2,y\n", ", line 3: expected 2 cells, got 3."),
    "one class": ("a,kind\n1,x\n2,x\n", ": column 'kind' must have two or more classes."),
    "empty class": ("a,kind\n1,x\n2,\n", ": column 'kind' must not have empty cells. Remove the "
        "lines that contain them."),
    "no numbers": ("a,kind\nred,x\nblue,y\n", "must have two or more numeric columns besides "
        "'kind'."),
}  # fmt: skip


@pytest.mark.parametrize(("table", "message"), NOT_DRAFTED.values(), ids=NOT_DRAFTED)
def test_csv_that_cannot_be_drafted_is_rejected(
    draft: Callable[..., str], tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(SystemExit) as exited:
        draft(table)
    separator = "" if message[0] in ":," else " "
    assert exited.value.code == f"{tmp_path / 'table.csv'}{separator}{message}"


def run_draft(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "model/draft_schema.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_command_writes_the_draft_or_changes_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    (folder / "model").mkdir(parents=True)
    shutil.copy(ROOT / "model" / "draft_schema.py", folder / "model")
    (folder / "model" / "parts.csv").write_text(TABLE, "utf-8")
    drafted = run_draft(folder, "model/parts.csv", "kind")
    assert (drafted.returncode, drafted.stdout) == (
        0,
        "Wrote schema.py. Check its limits, the order of its classes and PUBLISH_DATA, add units, "
        "remove fields that are not features, then run: python model/train.py\n",
    )
    assert 'DATA = "model/parts.csv"\n' in (folder / "schema.py").read_text("utf-8")
    before = contents(folder)
    (tmp_path / "outside.csv").write_text(TABLE, "utf-8")
    for arguments, message in (
        (
            ["model/parts.csv"],
            "Expected two arguments: python model/draft_schema.py CSV CLASS_COLUMN",
        ),
        (
            ["../outside.csv", "kind"],
            "../outside.csv must be in this repository. Copy it to model/ first.",
        ),
        (
            ["absent.csv", "kind"],
            "absent.csv cannot be read as CSV in UTF-8: [Errno 2] No such file or directory: "
            "'absent.csv'.",
        ),
    ):
        rejected = run_draft(folder, *arguments)
        assert rejected.returncode == 1
        assert rejected.stderr.removeprefix("Left out, because").endswith(f"{message}\n")
    assert contents(folder) == before

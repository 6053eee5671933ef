"""model/train.py, run as its owner runs it, on a copy of what it reads and writes."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import model
import run
from tests import iris
from tests.service import PICKLE, ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in [*ROOT.glob("*.py"), ROOT / "README.md"]:
        shutil.copy(path, tmp_path)
    for folder in ("model", "static"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, edited = re.subn(pattern, replacement, path.read_text("utf-8"), flags=re.MULTILINE)
    assert edited, f"{path.name} does not match {pattern}"
    path.write_text(text, "utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_retraining_writes_the_same_bytes(copy: Path) -> None:
    before = contents(copy)
    (copy / "model" / PICKLE.name).unlink()
    (copy / "static" / "thresholds.json").unlink()
    for name in ("README.md", "static/openapi.json", "static/postman_collection.json"):
        edit(copy / name, r"0\.[0-9]{9,}", "0.5")  # the probabilities
    edit(copy / "README.md", "accuracy: train .*, test [0-9.]+", "accuracy: train 0, test 0")
    edit(copy / "static" / "openapi.json", "longer than [0-9]+ bytes", "longer than a byte")
    edit(copy / "static" / "openapi.json", '"minimum": 0', '"minimum": 1')
    edit(copy / "static" / "openapi.json", '"0 .*"', '"a number"')  # the names of the classes
    command = [sys.executable, "-B", copy / "model" / "train.py"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    now = contents(copy)
    assert now.keys() == before.keys()
    for name in now:
        assert now[name] == before[name], name
    assert f"\n- {ended.stdout}" in (copy / "README.md").read_text("utf-8")


FIRST, SECOND = run.Flower.__struct_fields__[:2]
ONE, TWO, *OTHERS = model.SPECIES


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "sentence"),
    [
        (
            "run.py",
            rf"{FIRST}(.*\s+){SECOND}",
            rf"{SECOND}\1{FIRST}",
            f"run.py: field 1 of Flower is {SECOND} and has to be {FIRST}, "
            "as feature 1 of the data is ",
        ),
        (
            "model.py",
            f'"{ONE}", "{TWO}"',
            f'"{TWO}", "{ONE}"',
            f"model.py: SPECIES is {(TWO, ONE, *OTHERS)} and has to be {model.SPECIES}, ",
        ),
        ("model.py", r"N_FEATURES = \d+", "N_FEATURES = 99", f"{{copy}}/model/{PICKLE.name} has "),
        (
            "model/train.py",
            PICKLE.name,
            f"other-{PICKLE.name}",
            f"model/{PICKLE.name} is another model: delete it and its digest.",
        ),
        (
            "run.py",
            r"le=[\d_.]+",
            f"le={iris.TOO_LOW_A_LIMIT}",  # enough for the examples, but not for all flowers
            f'static/{iris.DATA} is answered with 422, not 200: {{"title":"Unprocessable Entity",',
        ),
        (
            "static/openapi.json",
            r'("value": \[\s*\{\s*"\w+": )[0-9.]+',
            r'\1"long"',
            'static/openapi.json: the example "many" of /predict is answered with 422, not 200: ',
        ),
        (
            "static/postman_collection.json",
            '"code": 404',
            '"code": 200',
            'static/postman_collection.json: the request "Refused: no such path" is answered with '
            "404, not 200: ",
        ),
        (
            "README.md",
            "accuracy: train",
            "accuracy in training:",
            r"README.md has 0 matches of accuracy: train .*, test [\d.]+ and has to have one.",
        ),
        (
            "README.md",
            r'^(\{"return":\{.*\}\})$',
            r"\1\n\1",
            r'README.md has 2 matches of ^\{"return":\{.*\}\}$ and has to have one.',
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_no_file(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    pattern: str,
    replacement: str,
    sentence: str,
) -> None:
    edit(copy / name, pattern, replacement)
    before = contents(copy)
    # Not in a process of its own, which would import for two seconds: with the copy's modules.
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for module in ("run", "model", "request_body", "settings"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(copy / "model" / "train.py"), run_name="__main__")
    assert ended.value.code.startswith(sentence.replace("{copy}", str(copy)))
    assert "\n" not in ended.value.code
    assert contents(copy) == before

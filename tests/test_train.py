"""model/train.py, run as its owner runs it, on a copy of what it reads and writes."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in [*ROOT.glob("*.py"), ROOT / "README.md"]:
        shutil.copy(path, tmp_path)
    for folder in ("model", "static"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, edited = re.subn(pattern, replacement, path.read_text("utf-8"))
    assert edited, f"{path.name} does not match {pattern}"
    path.write_text(text, "utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_retraining_writes_the_same_bytes(copy: Path) -> None:
    before = contents(copy)
    for name in ("model/xgboost-iris.pgz", "static/iris.json", "static/thresholds.json"):
        (copy / name).unlink()
    for name in ("README.md", "static/openapi.json", "static/postman_collection.json"):
        edit(copy / name, "0.99515[0-9]+", "0.5")
    edit(copy / "README.md", "accuracy: train 1.000, test 0.933", "accuracy: train 0, test 0")
    edit(copy / "static" / "openapi.json", "2097152 bytes", "1 byte")
    edit(copy / "static" / "openapi.json", '"in cm"', '"in inches"')
    edit(copy / "static" / "openapi.json", '0 setosa, 1 versicolor, 2 virginica"', '"')
    command = [sys.executable, "-B", copy / "model" / "train.py"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("accuracy: train 1.000, test 0.933\n", "")
    now = contents(copy)
    assert now.keys() == before.keys()
    for name in now:
        assert now[name] == before[name], name


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "sentence"),
    [
        (
            "run.py",
            r"sepal_length_cm(.*\s+)sepal_width_cm",
            r"sepal_width_cm\1sepal_length_cm",
            "run.py: field 1 of Flower is sepal_width_cm and has to be sepal_length_cm, "
            'as feature 1 of the data is "sepal length (cm)".',
        ),
        (
            "model.py",
            '"setosa", "versicolor"',
            '"versicolor", "setosa"',
            "model.py: SPECIES is ('versicolor', 'setosa', 'virginica') and has to be "
            "('setosa', 'versicolor', 'virginica'), as in the data.",
        ),
        ("model.py", "N_FEATURES = 4", "N_FEATURES = 5", "{copy}/model/xgboost-iris.pgz has 4 "),
        (
            "model/train.py",
            "xgboost-iris.pgz",
            "iris.pgz",
            "model/xgboost-iris.pgz is another model: delete it and its digest.",
        ),
        (
            "run.py",
            "le=100",
            "le=7",
            'static/iris.json is answered with 422, not 200: {"title":"Unprocessable Entity",',
        ),
        (
            "static/openapi.json",
            '"petalWidthCm": 0.2',
            '"petalWidthCm": "narrow"',
            'static/openapi.json: the example "many" of /predict is answered with 422, not 200: ',
        ),
        (
            "static/postman_collection.json",
            '"code": 404',
            '"code": 200',
            "static/postman_collection.json: Refused: no such path is answered with 404, not 200: ",
        ),
        (
            "README.md",
            "accuracy: train",
            "accuracy in training:",
            r"README.md has 0 matches of accuracy: train .*, test [\d.]+ and has to have one.",
        ),
        (
            "README.md",
            '({"return":{"setosa":.*})\n',
            r"\1\n\1\n",
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
    for module in ("run", "model", "body"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(copy / "model" / "train.py"), run_name="__main__")
    assert exit.value.code.startswith(sentence.replace("{copy}", str(copy)))
    assert "\n" not in exit.value.code
    assert contents(copy) == before

"""What the service promises for iris, written out: data, responses, messages and figures."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sklearn.datasets import load_iris

import model
from tests.service import ROOT

FLOWER = {"sepalLengthCm": 5.9, "sepalWidthCm": 3, "petalLengthCm": 5.1, "petalWidthCm": 1.8}
SETOSA = {"sepalLengthCm": 5.1, "sepalWidthCm": 3.5, "petalLengthCm": 1.4, "petalWidthCm": 0.2}
README = (ROOT / "README.md").read_text("utf-8")


def test_data_equals_scikit_learns_iris() -> None:
    data = load_iris()
    with (ROOT / "model" / "iris.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    names = ["sepalLengthCm", "sepalWidthCm", "petalLengthCm", "petalWidthCm"]
    assert header == [*names, "species"]
    assert data.feature_names == [
        "sepal length (cm)",
        "sepal width (cm)",
        "petal length (cm)",
        "petal width (cm)",
    ]
    assert [[float(cell) for cell in row[:4]] for row in rows] == data.data.tolist()
    assert [row[4] for row in rows] == data.target_names[data.target].tolist()


def test_training_writes_the_same_bytes(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns(".*", "node_modules", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=ignore)
    (copy / "model" / "xgboost-iris.pgz").unlink()
    (copy / "model" / "xgboost-other.pgz").touch()  # of an earlier data set
    for path in copy.glob("static/*.json"):
        path.unlink()
    (copy / "tests" / "expected_predictions.json").unlink()
    readme = re.sub(r"accuracy: .*|\d\.\d{9,}|SHA-256 \w+", "old", README)
    (copy / "README.md").write_text(readme, "utf-8")
    command = [sys.executable, "-B", "model/train.py"]
    completed = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "\naccuracy: train 1.000, test 0.933\n" in completed.stdout
    assert "\n- accuracy: train 1.000, test 0.933\n" in README
    written = {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()}
    for name in written:
        assert (copy / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert Path("model/xgboost-other.pgz") not in written
    assert Path("model/xgboost-iris.pgz.sha256") in written


@pytest.mark.parametrize(
    ("flower", "label", "probabilities"),
    [
        (FLOWER, "2", {"setosa": 0.000852, "versicolor": 0.003993, "virginica": 0.995155}),
        (SETOSA, "0", {"setosa": 0.993091, "versicolor": 0.005326, "virginica": 0.001583}),
    ],
    ids=["virginica", "setosa"],
)
def test_flower_has_its_class_and_probabilities(
    client: FlaskClient, flower: dict[str, float], label: str, probabilities: dict[str, float]
) -> None:
    assert client.post("/predict", json=flower).json == {"return": label}
    returned = client.post("/predict_proba", json=flower).json["return"]
    assert list(returned) == list(probabilities)
    assert returned == pytest.approx(probabilities, abs=1e-6)
    assert model.predict(list(flower.values())) == int(label)


@pytest.mark.parametrize("petal_width", [0, -0.0, 100])
def test_limits_are_valid(client: FlaskClient, petal_width: float) -> None:
    flower = FLOWER | {"petalWidthCm": petal_width}
    assert client.post("/predict", json=flower).data == b'{"return":"2"}'


def test_whole_data_set_is_one_request(client: FlaskClient) -> None:
    flowers = json.loads((ROOT / "static" / "training-data.json").read_bytes())
    assert len(flowers) == 150
    names = ["setosa", "versicolor", "virginica"]
    labels = client.post("/predict", json=flowers).json["return"]
    wrong = [
        index
        for index, (flower, label) in enumerate(zip(flowers, labels, strict=True))
        if names[int(label)] != flower["species"]
    ]
    assert wrong == [77, 106, 138]  # of the 45 flowers in the test split, where accuracy is 0.933


EXPECTED = "expected a number from 0 to 100 (in cm)"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"petalWidthCm": None}, f"{EXPECTED}, got null"),
        ({"petalWidthCm": "1.8"}, f'{EXPECTED}, got "1.8"'),
        ({"petalWidthCm": -0.1}, f"{EXPECTED}, got -0.1"),
        ({"petalWidthCm": 100.1}, f"{EXPECTED}, got 100.1"),
    ],
    ids=["null", "text", "too-small", "too-great"],
)
def test_invalid_field_has_its_error(
    client: FlaskClient, change: dict[str, Any], detail: str
) -> None:
    response = client.post("/predict", json=[FLOWER, FLOWER | change])
    assert response.status_code == 422
    assert response.json["detail"] == "Expected one flower or an array of them; see errors."
    assert response.json["errors"] == [{"pointer": "/1/petalWidthCm", "detail": detail}]


@pytest.mark.parametrize(
    ("others", "unknown"),
    [
        ({}, ""),
        ({"petalWidth": 1.8}, "; the flower has an unknown field 'petalWidth'"),
        ({"a": 1, "b": 2}, "; the flower has unknown fields 'a', 'b'"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "; the flower has unknown fields 'a', 'b', 'c'"),
    ],
    ids=["none", "one", "two", "four"],
)
def test_missing_field_names_unknown_fields(
    client: FlaskClient, others: dict[str, float], unknown: str
) -> None:
    flower = {name: value for name, value in FLOWER.items() if name != "petalWidthCm"}
    errors = client.post("/predict", json=flower | others).json["errors"]
    detail = f"{EXPECTED}, but the field is missing{unknown}"
    assert errors == [{"pointer": "/petalWidthCm", "detail": detail}]


def test_table_has_a_cell_for_each_combination_of_thresholds() -> None:
    assert [len(edge) for edge in model.find_edges(model.booster).values()] == [6, 6, 9, 3]
    assert "7 × 7 × 10 × 4 = 1,960 cells" in README  # noqa: RUF001


def test_body_has_room_for_12787_flowers() -> None:
    assert "longer than 2 MiB (at least 12,787 flowers fit if the JSON has no spaces)" in README
    for name in ("predict_csv.py", "predict_csv.R"):
        assert "12787" in (ROOT / "docs" / name).read_text("utf-8")


def test_model_is_described_in_one_line() -> None:
    assert re.fullmatch(
        r"Model: xgboost-iris\.pgz [0-9a-f]{12}, XGBoost 3\.2\.0, 4 features, 3 classes, "
        "predictions from a table",
        model.describe(),
    )

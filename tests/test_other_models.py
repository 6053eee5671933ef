"""README's steps for other data, in a copy of the repository, and then the tests there."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from xgboost import XGBClassifier

from tests.service import ROOT, tool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the repository without the tests that are for iris only."""
    ignore = shutil.ignore_patterns(".*", "node_modules", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=ignore)
    shutil.copy(ROOT / ".dockerignore", copy)
    shutil.rmtree(copy / "tests" / "iris")
    return copy


def run(copy: Path, *command: str) -> str:
    """Return what a program prints, and show it if the program fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env.pop("CI", None)  # with it, schemathesis sends ten times as many requests
    completed = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def draft(copy: Path, name: str, class_column: str) -> str:
    printed = run(copy, sys.executable, "model/draft_schema.py", f"model/{name}", class_column)
    run(copy, tool("ruff"), "check", "schema.py")
    run(copy, tool("ruff"), "format", "--check", "schema.py")
    run(copy, tool("mypy"), "schema.py")
    return printed


def run_tests(copy: Path) -> None:
    """Run the fast tests, except for those of the worker, which know no model."""
    arguments = ["--numprocesses=2", "--ignore=tests/test_worker.py"]
    assert " passed" in run(copy, sys.executable, "-m", "pytest", "-q", *arguments)


@pytest.mark.parametrize("load", [load_wine, load_digits], ids=["wine", "digits"])
def test_model_trained_here_passes_the_tests(copy: Path, load: Any) -> None:
    data = load()
    whole = load is load_digits
    rows = [
        [*(map(int, values) if whole else values), data.target_names[index]]
        for values, index in zip(data.data.tolist(), data.target, strict=True)
    ]
    write_csv(copy / "model" / "other.csv", [*data.feature_names, "class"], rows)
    draft(copy, "other.csv", "class")
    assert "accuracy: train 1.000" in run(copy, sys.executable, "model/train.py")
    run_tests(copy)


def test_model_trained_elsewhere_passes_the_tests(copy: Path, tmp_path: Path) -> None:
    data = load_breast_cancer()
    names = [str(name) for name in data.feature_names]
    rows = [
        [data.target_names[index], *values]
        for values, index in zip(data.data.tolist(), data.target, strict=True)
    ]
    write_csv(copy / "model" / "cancer.csv", ["diagnosis", *names], rows)
    draft(copy, "cancer.csv", "diagnosis")
    classifier = XGBClassifier(n_estimators=40, early_stopping_rounds=5)
    benign = (data.target_names[data.target] == "malignant").astype(int)  # classes are sorted
    classifier.fit(data.data[:400], benign[:400], eval_set=[(data.data[400:], benign[400:])])
    classifier.get_booster().feature_names = names
    classifier.save_model(tmp_path / "my-model.json")
    printed = run(copy, sys.executable, "model/publish.py", str(tmp_path / "my-model.json"))
    assert "Early stopping: only the first" in printed
    run_tests(copy)


def test_table_with_missing_values_passes_the_tests(copy: Path) -> None:
    """A realistic table: negative and missing numbers, text, and odd names."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(400):
        delta = round(random.normal(-3, 20), 2)
        tenure = int(random.integers(0, 72))
        floor = round(random.uniform(0, 80), 1)
        churned = delta + 15 * (tenure < 20) + random.normal(0, 4) > 0
        rows.append(
            [
                f"customer {number}",
                "" if random.random() < 0.1 else delta,
                int(random.integers(0, 5)),
                "" if random.random() < 0.2 else floor,
                tenure,
                random.choice(["Bern", "Basel"]),
                "yes" if churned else "no",
            ]
        )
    header = ["Customer", "Delta (%)", "class", "2nd_flr", "Tenure in months", "City", "Churned"]
    write_csv(copy / "model" / "churn.csv", header, rows)
    printed = draft(copy, "churn.csv", "Churned")
    assert "'Customer' (contains 'customer 0'), 'City' (contains 'B" in printed
    run(copy, sys.executable, "model/train.py")
    run_tests(copy)

"""model/publish.py with iris models trained elsewhere: served to the bit, or rejected in one line.

For early stopping, feature names, categories and so on, the models have what a DataFrame or a GPU
would leave in them: neither pandas nor a GPU is needed here.
"""

import gzip
import itertools
import json
import lzma
import os
import pickle
import pickletools
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier, XGBRanker, XGBRegressor, XGBRFClassifier

import model
import publish
import schema
import write_docs

ROOT = Path(__file__).parents[2]
SAMPLES, CLASSES = publish.read_data()
RANDOM = np.random.default_rng(42)
# From the data, and others around it.
PREDICTED = np.vstack([SAMPLES, RANDOM.uniform(0, 8, (3_000, 4))]).astype(np.float32)
COLUMNS = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
SMALL: dict[str, Any] = {"n_estimators": 5, "max_depth": 2}


def copy_repository(folder: Path) -> Path:
    for path in [*ROOT.glob("*.py"), ROOT / "README.md"]:
        shutil.copy(path, folder)
    shutil.copytree(ROOT / "model", folder / "model")
    for name in ("static", "tests"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository, which publish.py writes to."""
    folder = tmp_path / "repository"
    folder.mkdir()
    copy_repository(folder)
    monkeypatch.setattr(publish, "ROOT", folder)
    monkeypatch.setattr(write_docs, "ROOT", folder)
    return folder


@pytest.fixture
def two_classes(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for a schema without virginica."""
    names = schema.CLASSES[:2]
    for module in (schema, publish, write_docs, model):
        monkeypatch.setattr(module, "CLASSES", type(module.CLASSES)(names))
    monkeypatch.setattr(schema, "EXAMPLES", (99, 0))
    monkeypatch.setattr(publish, "read_data", lambda: (SAMPLES[:100], CLASSES[:100]))
    return repository


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- Models that were trained elsewhere ----------------------------------------------------


def fit(names: list[str] | None = None, columns: Any = SAMPLES, **parameters: Any) -> XGBClassifier:
    classifier = XGBClassifier(**(SMALL | parameters)).fit(columns, CLASSES)
    classifier.get_booster().feature_names = names
    return classifier


def stop_early(**parameters: Any) -> XGBClassifier:
    """Return a classifier with more trees than it predicts with."""
    classifier = XGBClassifier(
        n_estimators=50, learning_rate=0.9, max_depth=2, early_stopping_rounds=3, **parameters
    )
    classifier.fit(SAMPLES[1::2], CLASSES[1::2], eval_set=[(SAMPLES[::2], CLASSES[::2])], verbose=0)
    booster = classifier.get_booster()
    assert classifier.best_iteration + 1 < booster.num_boosted_rounds()
    assert (booster.inplace_predict(SAMPLES) != classifier.predict_proba(SAMPLES)).any()
    return classifier


def with_best_iteration(value: str) -> XGBClassifier:
    classifier = fit()
    classifier.get_booster().set_attr(best_iteration=value)
    return classifier


def train(
    objective: str = "multi:softprob", classes: Any = CLASSES, **matrix: Any
) -> xgboost.Booster:
    parameters: dict[str, Any] = {"objective": objective, "max_depth": 2}
    if objective.startswith("multi"):
        parameters["num_class"] = 3
    return xgboost.train(parameters, xgboost.DMatrix(SAMPLES, classes, **matrix), 5)


def train_on_categories() -> XGBClassifier:
    columns = SAMPLES.copy()
    columns[:, 3] = np.floor(columns[:, 3])
    types = ["float", "float", "float", "c"]  # as of a DataFrame with a column of dtype category
    classifier = XGBClassifier(enable_categorical=True, feature_types=types, **SMALL)
    return classifier.fit(columns, CLASSES)


def hide_categories() -> XGBClassifier:
    classifier = train_on_categories()
    classifier.get_booster().feature_types = None
    return classifier


def with_types() -> XGBClassifier:
    classifier = fit(COLUMNS)
    classifier.get_booster().feature_types = ["float", "int", "i", "q"]
    return classifier


def assign_booster() -> XGBClassifier:
    classifier = XGBClassifier()
    classifier._Booster = train()
    return classifier


def change_objective() -> XGBClassifier:
    classifier = fit()
    classifier.objective = "multi:softmax"  # it then computes the probabilities with SciPy
    return classifier


class Callback(xgboost.callback.TrainingCallback):
    """A callback that no other process knows."""


def save(classifier: Any, path: Path) -> Path:
    """Save a classifier as the suffix of the path says."""
    match path.suffix:
        case ".json" | ".ubj":
            classifier.save_model(path)
        case ".joblib":
            joblib.dump(classifier, path)
        case ".gz":
            path.write_bytes(gzip.compress(pickle.dumps(classifier)))
        case ".xz":
            path.write_bytes(lzma.compress(pickle.dumps(classifier)))
        case _:
            path.write_bytes(pickle.dumps(classifier))
    return path


def find_original(trained: Any, path: Path) -> XGBClassifier:
    """Return the classifier whose predictions count, without the code under test."""
    original = XGBClassifier()
    if path.suffix in (".json", ".ubj"):
        original.load_model(path)
    elif isinstance(trained, xgboost.Booster):
        original.load_model(trained.save_raw("ubj"))
    else:
        original = getattr(trained, "best_estimator_", trained)
    return original


def load_published(folder: Path) -> XGBClassifier:
    return pickle.loads(gzip.decompress((folder / publish.MODEL).read_bytes()))


def publish_file(path: Path) -> None:
    publish.publish(publish.read_classifier(path), source=str(path))


def reject(path: Path) -> str:
    """Publish a file, and return the one-line error that says why it cannot be."""
    before = contents(publish.ROOT)
    with pytest.raises(SystemExit) as exited:
        publish_file(path)
    assert contents(publish.ROOT) == before
    message = str(exited.value.code)
    assert "\n" not in message
    return message


# ---- Served to the bit ---------------------------------------------------------------------

SERVED: dict[str, tuple[str, Callable[[], Any]]] = {
    "plain pickle": (".pkl", fit),
    "gzip": (".gz", fit),
    "xz": (".xz", fit),
    "joblib": (".joblib", fit),
    "json": (".json", fit),
    "ubj": (".ubj", fit),
    "early stopping": (".pkl", stop_early),
    "early stopping, json": (".json", stop_early),
    "early stopping, ubj": (".ubj", stop_early),
    "early stopping, forest": (".pkl", lambda: stop_early(num_parallel_tree=3)),
    "early stopping, forest, json": (".json", lambda: stop_early(num_parallel_tree=3)),
    "early stopping, multi-output trees": (
        ".pkl",
        lambda: stop_early(multi_strategy="multi_output_tree"),
    ),
    "multi-output trees, json": (".json", lambda: fit(multi_strategy="multi_output_tree")),
    "stale best iteration": (".pkl", lambda: with_best_iteration("2")),
    "missing outside of the limits": (".pkl", lambda: fit(missing=-999)),
    "missing as NumPy scalar": (".pkl", lambda: fit(missing=np.float32("nan"))),
    "names in order": (".json", lambda: fit(COLUMNS)),
    "names that count": (".json", lambda: fit(list("0123"))),
    "names that count from f0": (".json", lambda: fit(["f0", "f1", "f2", "f3"])),
    "feature types": (".json", with_types),
    "NumPy scalars as parameters": (
        ".pkl",
        lambda: fit(
            max_depth=np.int64(2),
            learning_rate=np.float32(0.3),
            random_state=np.random.RandomState(1),
        ),
    ),
    "grid search": (
        ".pkl",
        lambda: GridSearchCV(
            XGBClassifier(**SMALL), {"learning_rate": np.linspace(0.1, 0.3, 2)}, cv=2
        ).fit(SAMPLES, CLASSES),
    ),
    "booster": (".pkl", train),
    "booster, json": (".json", train),
    "booster with names": (".pkl", lambda: train(feature_names=COLUMNS)),
    "random forest": (".pkl", lambda: XGBRFClassifier(n_estimators=5).fit(SAMPLES, CLASSES)),
    "callbacks and evals_result_": (
        ".pkl",
        lambda: XGBClassifier(callbacks=[Callback()], **SMALL).fit(
            SAMPLES, CLASSES, eval_set=[(SAMPLES, CLASSES)], verbose=False
        ),
    ),
    "callable metric": (
        ".pkl",
        lambda: XGBClassifier(eval_metric=log_loss, **SMALL).fit(
            SAMPLES, CLASSES, eval_set=[(SAMPLES, CLASSES)], verbose=False
        ),
    ),
    "sample weights": (
        ".pkl",
        lambda: XGBClassifier(**SMALL).fit(
            SAMPLES, CLASSES, sample_weight=np.linspace(0.1, 3, len(SAMPLES))
        ),
    ),
    "base score": (".json", lambda: fit(base_score=0.2)),
    "max_cat_to_onehot": (".pkl", lambda: fit(enable_categorical=True, max_cat_to_onehot=3)),
    "no splits": (".json", lambda: fit(gamma=1e9)),
}


@pytest.mark.parametrize(("suffix", "make"), SERVED.values(), ids=SERVED)
def test_model_trained_elsewhere_is_served_to_the_bit(
    repository: Path, tmp_path: Path, suffix: str, make: Callable[[], Any]
) -> None:
    trained = make()
    path = save(trained, tmp_path / f"model{suffix}")
    expected = find_original(trained, path).predict_proba(PREDICTED)
    publish_file(path)
    assert (load_published(repository).predict_proba(PREDICTED) == expected).all()
    booster = model.load(repository / publish.MODEL)
    assert (model.tabulate(booster, lambda array: array)(PREDICTED) == expected).all()
    assert (model.predict_proba(booster, PREDICTED) == expected).all()


TWO_CLASSES: dict[str, Callable[[], Any]] = {
    "classifier": lambda: XGBClassifier(**SMALL).fit(SAMPLES[:100], CLASSES[:100]),
    "booster": lambda: xgboost.train(
        {"objective": "binary:logistic"}, xgboost.DMatrix(SAMPLES[:100], CLASSES[:100]), 5
    ),
    "multi:softprob": lambda: XGBClassifier(objective="multi:softprob", num_class=2, **SMALL).fit(
        SAMPLES[:100], CLASSES[:100]
    ),
}


@pytest.mark.parametrize("make", TWO_CLASSES.values(), ids=TWO_CLASSES)
def test_two_classes_are_served_to_the_bit(
    two_classes: Path, tmp_path: Path, make: Callable[[], Any]
) -> None:
    trained = make()
    path = save(trained, tmp_path / "model.pkl")
    expected = find_original(trained, path).predict_proba(PREDICTED)
    publish_file(path)
    assert (load_published(two_classes).predict_proba(PREDICTED) == expected).all()
    booster = model.load(two_classes / publish.MODEL)
    assert (model.tabulate(booster, lambda array: array)(PREDICTED) == expected).all()


# ---- Rejected ------------------------------------------------------------------------------

ITSELF = "Save the XGBClassifier itself, trained directly on the columns listed in schema.py."
SAVE_AGAIN = (
    "Save an XGBClassifier with classifier.save_model('model.json'), using the version of XGBoost "
    "that trained it, and publish model.json."
)
NO_OBJECTIVE = "Train an XGBClassifier without setting objective."
ONE_HOT = "has categorical features. Train with one 0/1 column per category instead."
FIELDS = ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"]
REVERSED = FIELDS[::-1]


def wrong_kind(name: str) -> str:
    kinds = "an XGBClassifier, a fitted search that wraps one, or a Booster"
    return f"must be {kinds}, not {name}. {ITSELF}"


def wrong_objective(name: str) -> str:
    return f"must use the multi:softprob or binary:logistic objective, not {name}. {NO_OBJECTIVE}"


def wrong_booster(name: str) -> str:
    return f"must use the gbtree booster, not {name}. Train without setting booster."


def wrong_features(n_features: int) -> str:
    return (
        f"must have the 4 features in schema.py, {publish.NAMES}, not {n_features} features. "
        "Change schema.py, or train with its features."
    )


def wrong_classes(n_classes: int) -> str:
    return (
        f"must have the 3 classes in schema.py, {publish.CLASSES}, not {n_classes} classes. "
        "Change schema.py, or train with its classes."
    )


def wrong_iteration(value: str, n_rounds: int = 5) -> str:
    return f"has {n_rounds} boosting rounds, but its best iteration is {value}. Train it again."


def search(**arguments: Any) -> GridSearchCV:
    return GridSearchCV(XGBClassifier(**SMALL), {"max_depth": [1, 2]}, cv=2, **arguments)


def on_two_classes(objective: str) -> XGBClassifier:
    return XGBClassifier(objective=objective, **SMALL).fit(SAMPLES, CLASSES == 1)


REJECTED: dict[str, tuple[str, Callable[[], Any], str]] = {
    "impossible best iteration": (
        ".pkl",
        lambda: with_best_iteration("99"),
        wrong_iteration("99"),
    ),
    "impossible best iteration, json": (
        ".json",
        lambda: with_best_iteration("99"),
        wrong_iteration("99"),
    ),
    "negative best iteration": (".pkl", lambda: with_best_iteration("-1"), wrong_iteration("-1")),
    "best iteration is text": (".pkl", lambda: with_best_iteration("two"), wrong_iteration("two")),
    "no trees": (".pkl", lambda: fit(n_estimators=0), wrong_iteration("-1", 0)),
    "missing is None": (
        ".pkl",
        lambda: fit().set_params(missing=None),
        "cannot make predictions (XGBoostError: Invalid type for: `missing`, expecting one of "
        "the: {`Number`, `Integer`}, got: `Null`). Train an XGBClassifier, and save it right "
        "after fit().",
    ),
    "categories": (".pkl", train_on_categories, ONE_HOT),
    "categories, json": (".json", train_on_categories, ONE_HOT),
    "categories in the trees only": (".pkl", hide_categories, ONE_HOT),
    "names in another order": (
        ".json",
        lambda: fit(COLUMNS[::-1], SAMPLES[:, ::-1]),
        f"was trained on the columns {COLUMNS[::-1]}. The fields of schema.py must be "
        f"{REVERSED}, in this order, not {FIELDS}: field 1 is the first to differ.",
    ),
    "other names": (
        ".pkl",
        lambda: fit(["a", "b", "c", "petal width (cm)"]),
        "was trained on the columns ['a', 'b', 'c', 'petal width (cm)']. The fields of schema.py "
        f"must be ['a', 'b', 'c', 'petal_width_cm'], in this order, not {FIELDS}: field 1 is the "
        "first to differ.",
    ),
    "three names": (
        ".json",
        lambda: fit(COLUMNS[:3], SAMPLES[:, :3]),
        f"was trained on the columns {COLUMNS[:3]}. The fields of schema.py must be {FIELDS[:3]}, "
        f"in this order, not {FIELDS}: field 4 is the first to differ.",
    ),
    "three features": (".json", lambda: fit(columns=SAMPLES[:, :3]), wrong_features(3)),
    "five features": (
        ".pkl",
        lambda: fit(columns=np.hstack([SAMPLES, SAMPLES[:, :1]])),
        wrong_features(5),
    ),
    "two classes": (".pkl", lambda: on_two_classes("binary:logistic"), wrong_classes(2)),
    "two classes, booster": (
        ".json",
        lambda: train("binary:logistic", CLASSES == 1),
        wrong_classes(2),
    ),
    "four classes": (
        ".pkl",
        lambda: XGBClassifier(**SMALL).fit(SAMPLES, np.arange(len(SAMPLES)) % 4),
        wrong_classes(4),
    ),
    "several labels": (
        ".pkl",
        lambda: XGBClassifier(**SMALL).fit(SAMPLES, np.eye(3, dtype=int)[CLASSES]),
        "must predict one label, not 3. Train on one class per sample.",
    ),
    "multi:softmax": (
        ".pkl",
        lambda: fit(objective="multi:softmax"),
        wrong_objective("multi:softmax"),
    ),
    "multi:softmax, booster": (
        ".pkl",
        lambda: train("multi:softmax"),
        wrong_objective("multi:softmax"),
    ),
    "binary:logitraw": (
        ".pkl",
        lambda: on_two_classes("binary:logitraw"),
        wrong_objective("binary:logitraw"),
    ),
    "binary:hinge": (
        ".json",
        lambda: on_two_classes("binary:hinge"),
        wrong_objective("binary:hinge"),
    ),
    "rank:pairwise": (
        ".pkl",
        lambda: train("rank:pairwise", qid=np.zeros(len(SAMPLES))),
        wrong_objective("rank:pairwise"),
    ),
    "dart": (".pkl", lambda: fit(booster="dart"), wrong_booster("dart")),
    "gblinear": (
        ".json",
        lambda: fit(booster="gblinear", max_depth=None),
        wrong_booster("gblinear"),
    ),
    "unfitted": (".pkl", XGBClassifier, "is not fitted. Call fit() before you save it."),
    "regressor": (
        ".pkl",
        lambda: XGBRegressor(**SMALL).fit(SAMPLES, CLASSES),
        wrong_kind("XGBRegressor"),
    ),
    "regressor, json": (
        ".json",
        lambda: XGBRegressor(**SMALL).fit(SAMPLES, CLASSES),
        "cannot be loaded (TypeError: Loading an estimator with different type. Expecting: "
        "classifier, got: regressor): it is damaged or in an unsupported format, or needs a module "
        f"that is not installed. {SAVE_AGAIN}",
    ),
    "ranker": (
        ".pkl",
        lambda: XGBRanker(**SMALL).fit(SAMPLES, CLASSES, qid=np.zeros(len(SAMPLES))),
        wrong_kind("XGBRanker"),
    ),
    "unfitted search": (
        ".pkl",
        lambda: RandomizedSearchCV(XGBClassifier(**SMALL), {"max_depth": [1, 2]}),
        wrong_kind("RandomizedSearchCV"),
    ),
    "search without refit": (
        ".pkl",
        lambda: search(refit=False).fit(SAMPLES, CLASSES),
        wrong_kind("GridSearchCV"),
    ),
    "pipeline": (
        ".joblib",
        lambda: make_pipeline(StandardScaler(), XGBClassifier(**SMALL)).fit(SAMPLES, CLASSES),
        wrong_kind("Pipeline"),
    ),
    "calibrated": (
        ".pkl",
        lambda: CalibratedClassifierCV(XGBClassifier(**SMALL), cv=2).fit(SAMPLES, CLASSES),
        wrong_kind("CalibratedClassifierCV"),
    ),
    "one against the rest": (
        ".pkl",
        lambda: OneVsRestClassifier(XGBClassifier(**SMALL)).fit(SAMPLES, CLASSES),
        wrong_kind("OneVsRestClassifier"),
    ),
    "dict": (".pkl", lambda: {"model": fit()}, wrong_kind("dict")),
    "assigned booster": (
        ".pkl",
        assign_booster,
        "cannot make predictions (AttributeError: 'XGBClassifier' object has no attribute "
        "'n_classes_'). Train an XGBClassifier, and save it right after fit().",
    ),
}


@pytest.mark.parametrize(("suffix", "make", "reason"), REJECTED.values(), ids=REJECTED)
def test_model_that_cannot_be_served_is_rejected(
    repository: Path, tmp_path: Path, suffix: str, make: Callable[[], Any], reason: str
) -> None:
    path = save(make(), tmp_path / f"model{suffix}")
    assert reject(path) == f"{path} {reason}"


DIFFERS = r"{path} predicts \[[^]]+\] for \[[^]]+\], but the service would predict \[[^]]+\]\. "


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (
            lambda: fit(missing=0),
            "It treats 0 as missing, but the service treats only NaN as missing: train without "
            "setting missing.",
        ),
        (
            lambda: fit(missing=0.2),
            "It treats 0.2 as missing, but the service treats only NaN as missing: train without "
            "setting missing.",
        ),
        (change_objective, "Was the classifier changed after fit()? Save it right after fit()."),
    ],
    ids=["missing=0", "missing=0.2", "changed objective"],
)
def test_classifier_that_predicts_otherwise_is_rejected(
    repository: Path, tmp_path: Path, make: Callable[[], Any], cause: str
) -> None:
    path = save(make(), tmp_path / "model.pkl")
    pattern = DIFFERS.replace("{path}", re.escape(str(path))) + re.escape(cause)
    assert re.fullmatch(pattern, reject(path))


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


DAMAGED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "empty": (".pkl", lambda content: b"", "EOFError"),
    "text": (".pkl", lambda content: b"A model?\n", ""),
    "Git LFS pointer": (".pkl", lambda content: b"version https://git-lfs\n", "KeyError: 118"),
    "truncated pickle": (".pkl", truncate, "UnpicklingError: pickle exhausted before end of frame"),
    "truncated gzip": (".gz", truncate, ""),
    "truncated xz": (".xz", truncate, "EOFError: Compressed file ended before"),
    "truncated json": (".json", truncate, "ValueError: the end of the file is missing"),
    "truncated ubj": (".ubj", truncate, "ValueError: the end of the file is missing"),
    "other json": (".json", lambda content: b'{"a": 1}', "XGBoostError: Invalid cast, from Null"),
    "missing module": (
        ".pkl",
        lambda content: content.replace(b"xgboost.sklearn", b"company.sklearn"),
        "ModuleNotFoundError: No module named 'company'",
    ),
}


@pytest.mark.parametrize(("suffix", "damage", "error"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_rejected(
    repository: Path,
    tmp_path: Path,
    suffix: str,
    damage: Callable[[bytes], bytes],
    error: str,
) -> None:
    path = save(fit(), tmp_path / f"model{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    message = reject(path)
    assert message.startswith(f"{path} cannot be loaded ({error}")
    assert message.endswith(
        "): it is damaged or in an unsupported format, or needs a module that is not installed. "
        f"{SAVE_AGAIN}"
    )


@pytest.mark.parametrize(
    ("name", "error"), [("absent.json", "No such file or directory"), (".", "Is a directory")]
)
def test_file_that_does_not_exist_is_rejected(
    repository: Path, tmp_path: Path, name: str, error: str
) -> None:
    assert reject(tmp_path / name) == f"{tmp_path / name} cannot be read: {error}."


# ---- Models without names ------------------------------------------------------------------


@pytest.fixture(scope="module")
def splits() -> list[tuple[int, float]]:
    """Each split of the model that train.py trains: the feature's index and the threshold."""
    return model.read_splits(model.booster)[0]


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))][1:], ids=str)
def test_columns_in_another_order_are_rejected(
    splits: list[tuple[int, float]], order: tuple[int, ...]
) -> None:
    # A model that was trained on SAMPLES[:, order] has the same trees, with other indices.
    reordered = [(order.index(feature), threshold) for feature, threshold in splits]
    with pytest.raises(SystemExit, match="columns in a different order or in different units"):
        publish.check_ranges(reordered, "model.json", SAMPLES, has_names=False)


@pytest.mark.parametrize("seed", range(10))
def test_csv_of_24_rows_is_enough_for_columns_in_order(
    splits: list[tuple[int, float]], seed: int
) -> None:
    rows = np.concatenate(
        [
            np.random.default_rng(seed).choice(np.flatnonzero(index == CLASSES), 8, replace=False)
            for index in range(3)
        ]
    )
    publish.check_ranges(splits, "model.json", SAMPLES[rows], has_names=False)


@pytest.mark.parametrize(
    "columns", [SAMPLES[:, ::-1], SAMPLES * 10], ids=["another order", "millimeters"]
)
def test_columns_of_other_ranges_are_rejected_with_the_cure(
    repository: Path, tmp_path: Path, columns: Any
) -> None:
    path = save(fit(columns=columns), tmp_path / "model.json")
    names = re.escape(str(publish.NAMES))
    assert re.fullmatch(
        rf"\d+ of the \d+ thresholds of {path} lie outside the range of their column in "
        "model/iris.csv, and the model has no feature names: it was probably trained on columns in "
        rf"a different order or in different units than {names}. Reorder the fields in schema.py "
        "to match the model's columns; clients are not affected. If the order and the units are "
        rf"right, set classifier.get_booster\(\).feature_names = {names}, save the classifier and "
        "publish it again.",
        reject(path),
    )
    classifier = XGBClassifier()
    classifier.load_model(path)
    classifier.get_booster().feature_names = publish.NAMES
    publish_file(save(classifier, path))


def test_named_columns_of_other_ranges_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their order is right, but the model may have been trained in millimeters."""
    publish.check_ranges([(0, 51.0), (3, 0.8)], "model.json", SAMPLES, has_names=True)
    assert capsys.readouterr().out == (
        "Warning: 1 of the 2 thresholds of model.json lie outside the range of their column in "
        "model/iris.csv. Was it trained on data in different units, or on scaled values?\n"
    )


# ---- What is written and printed -----------------------------------------------------------

EARLY = "Early stopping: only the first {} of {} boosting rounds are served.\n"
ONLY_NAN = (
    "Only NaN counts as missing. If you set `missing` in training, predictions may differ: "
    "publish the classifier's pickle to check this. Other formats do not store the value.\n"
)


@pytest.mark.parametrize("suffix", [".pkl", ".json"])
def test_output_says_what_was_left_out(
    repository: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = stop_early()
    publish_file(save(classifier, tmp_path / f"model{suffix}"))
    n_rounds = classifier.get_booster().num_boosted_rounds()
    output = capsys.readouterr().out
    assert EARLY.format(classifier.best_iteration + 1, n_rounds) in output
    assert (ONLY_NAN in output) == (suffix == ".json")
    assert "\naccuracy on model/iris.csv, which may include the model's training data: 0." in output


def test_renamed_classes_are_a_warning(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = XGBClassifier(**SMALL).fit(SAMPLES, (CLASSES + 1) % 3)
    publish_file(save(classifier, tmp_path / "model.pkl"))
    assert (
        "Warning: with CLASSES = ('virginica', 'setosa', 'versicolor') in schema.py, more "
        "predictions would be right. If the model was trained with this order, change schema.py "
        "and publish the model again."
    ) in capsys.readouterr().out


@pytest.mark.parametrize("make", [fit, stop_early])
def test_publishing_again_writes_the_same_bytes(
    repository: Path, tmp_path: Path, make: Callable[[], Any]
) -> None:
    publish_file(save(make(), tmp_path / "model.pkl"))
    written = contents(repository)
    publish_file(repository / publish.MODEL)
    assert contents(repository) == written
    publish_file(save(load_published(repository), tmp_path / "model.json"))
    assert contents(repository) == written


def test_written_model_is_stamped_and_runs_on_the_cpu(repository: Path, tmp_path: Path) -> None:
    publish_file(save(stop_early(device="cpu"), tmp_path / "model.pkl"))
    booster = load_published(repository).get_booster()
    config = json.loads(booster.save_config())
    assert config["learner"]["generic_param"]["device"] == "cpu"
    assert booster.feature_names == publish.NAMES
    assert booster.feature_types is None
    assert booster.attributes() == {"classes": json.dumps(publish.CLASSES)}


def test_written_pickle_has_no_other_globals_than_the_service_allows(
    repository: Path, tmp_path: Path
) -> None:
    classifier = XGBClassifier(eval_metric=log_loss, callbacks=[Callback()], **SMALL)
    classifier.fit(SAMPLES, CLASSES, eval_set=[(SAMPLES, CLASSES)], verbose=False)
    publish_file(save(classifier, tmp_path / "model.pkl"))
    pickled = gzip.decompress((repository / publish.MODEL).read_bytes())
    names = [argument for _, argument, _ in pickletools.genops(pickled) if type(argument) is str]
    assert {"XGBClassifier", "Booster", "bytearray"} <= set(names)
    assert not {"log_loss", "Callback", "evals_result_"} & set(names)
    model.load(repository / publish.MODEL)  # whose unpickler allows these three only


PLAIN = """
import gzip, pickle, sys
classifier = pickle.loads(gzip.decompress(open(sys.argv[1], "rb").read()))
samples = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(classifier.predict_proba(samples).tobytes())
"""


def test_written_model_predicts_without_this_project(repository: Path, tmp_path: Path) -> None:
    classifier = stop_early()
    publish_file(save(classifier, tmp_path / "model.pkl"))
    predicted = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, repository / publish.MODEL],
        input=pickle.dumps(PREDICTED),
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert predicted.stdout == classifier.predict_proba(PREDICTED).tobytes()


def test_environment_changes_no_file(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(fit(), tmp_path / "model.pkl")
    publish_file(path)
    written = contents(repository)
    monkeypatch.setenv("FLASK_MAX_CONTENT_LENGTH", "100")
    publish_file(path)
    assert contents(repository) == written


def test_other_models_of_the_service_are_replaced(repository: Path, tmp_path: Path) -> None:
    for name in ("xgboost-wine.pgz", "xgboost-wine.pgz.sha256", "mine.pgz"):
        (repository / "model" / name).touch()
    publish_file(save(fit(), tmp_path / "model.json"))
    names = {path.name for path in repository.glob("model/*.pgz*")}
    assert names == {"xgboost-iris.pgz", "xgboost-iris.pgz.sha256", "mine.pgz"}


# ---- The commands --------------------------------------------------------------------------


def run_command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "model/publish.py", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


CALL = """
import json, pickle, sys
import run
names = run.Sample.__struct_encode_fields__
samples = [dict(zip(names, row)) for row in pickle.load(sys.stdin.buffer)]
sys.stdout.write(run.app.test_client().post("/predict_proba", json=samples).text)
"""


def test_command_publishes_what_the_service_predicts(repository: Path, tmp_path: Path) -> None:
    classifier = stop_early()
    path = save(classifier, tmp_path / "model.pkl")
    published = run_command(repository, path)
    assert (published.returncode, published.stderr) == (0, "")
    response = subprocess.run(
        [sys.executable, "-B", "-c", CALL],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "image")},  # without scikit-learn
        input=pickle.dumps(SAMPLES.tolist()),
        capture_output=True,
        check=True,
    )
    rows = [list(row.values()) for row in json.loads(response.stdout)["return"]]
    assert np.array(rows, np.float32).tobytes() == classifier.predict_proba(SAMPLES).tobytes()


def test_pickle_of_another_version_is_rejected(repository: Path, tmp_path: Path) -> None:
    path = save(fit(), tmp_path / "model.pkl")
    pickled = path.read_bytes()
    # The version in UBJSON, as model.check_version finds it.
    older = re.sub(
        rb"(version\[#L\x00{7}\x03)i.i.", rb"\1" + b"i\x02i\x01", pickled, flags=re.DOTALL
    )
    assert older != pickled
    path.write_bytes(older)
    before = contents(repository)
    published = run_command(repository, path)  # XGBoost warns once per process
    assert (published.returncode, published.stderr) == (
        1,
        f"{path} was pickled by another version of XGBoost. {SAVE_AGAIN}\n",
    )
    assert contents(repository) == before


def test_command_without_a_file_says_how_to_call_it(repository: Path) -> None:
    with pytest.raises(SystemExit) as exited:
        publish.main()
    assert exited.value.code == "Expected one argument, the model: python model/publish.py FILE"


def edit_and_train(folder: Path, *edits: tuple[str, str]) -> None:
    path = folder / "model" / "train.py"
    text = path.read_text("utf-8")
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, "utf-8")
    runpy.run_path(str(path), run_name="__main__")


def test_early_stopping_in_train_is_served_to_the_bit(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def publish_and_keep(classifier: XGBClassifier, accuracy: str) -> None:
        trained.append(classifier)
        publish_unchanged(classifier, accuracy)

    publish_unchanged = publish.publish
    monkeypatch.setattr(publish, "publish", publish_and_keep)
    edit_and_train(
        repository,
        ("learning_rate=0.3", "learning_rate=0.9, early_stopping_rounds=2"),
        (
            "fit(train_samples, train_classes)",
            "fit(train_samples, train_classes, eval_set=[(test_samples, test_classes)], verbose=0)",
        ),
    )
    assert "Early stopping: only the first " in capsys.readouterr().out
    expected = trained[0].predict_proba(PREDICTED)
    assert (load_published(repository).predict_proba(PREDICTED) == expected).all()


def test_missing_zero_in_train_is_rejected(repository: Path) -> None:
    before = contents(repository / "static")
    with pytest.raises(SystemExit) as exited:
        edit_and_train(repository, ("learning_rate=0.3", "learning_rate=0.3, missing=0"))
    message = str(exited.value.code)
    assert message.startswith("The classifier predicts [")
    assert "It treats 0 as missing, but the service treats only NaN" in message
    assert contents(repository / "static") == before

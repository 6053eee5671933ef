import gzip
import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

import model
from tests.samples import CLASSES, FIELDS, LABEL, OTHER, PREDICTIONS, SAMPLE, to_label
from tests.service import ROOT

# Their values, with NaN for null, as NumPy makes of None.
ONE, OTHER_ONE = (np.array(list(s.values()), np.float32) for s in (SAMPLE, OTHER))
N_FEATURES = len(FIELDS)
OPTIONAL = [field.is_optional for field in FIELDS]

BOTH_WAYS = pytest.mark.parametrize(
    "max_values", [model.MAX_VALUES, 0], ids=["from-the-table", "from-xgboost"]
)


def unchanged(probabilities: model.Array) -> model.Array:
    return probabilities


@pytest.fixture(scope="session")
def classifier() -> xgboost.XGBClassifier:
    """The model as plain XGBoost loads it."""
    return pickle.loads(gzip.decompress(model.PATH.read_bytes()))


@BOTH_WAYS
@pytest.mark.parametrize(
    "sample",
    [ONE.tolist(), [ONE.tolist()], ONE.astype(np.float64), ONE.reshape(1, -1)],
    ids=["list", "list-of-one", "float64", "two-dimensions"],
)
def test_predict_returns_the_class_of_one_sample(
    sample: Any, max_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_classes = model.tabulate(model.booster, model.choose_classes, max_values)
    monkeypatch.setattr(model, "predict_classes", predict_classes)
    assert str(model.predict(sample)) == LABEL


def test_predict_takes_none_for_a_missing_value() -> None:
    for prediction in PREDICTIONS:
        assert str(model.predict(list(prediction["sample"].values()))) == to_label(prediction)


@BOTH_WAYS
def test_many_samples_have_plain_xgboosts_classes(max_values: int) -> None:
    samples = np.array([list(p["sample"].values()) for p in PREDICTIONS], np.float32)
    predict_classes = model.tabulate(model.booster, model.choose_classes, max_values)
    assert predict_classes(samples).tolist() == [p["class"] for p in PREDICTIONS]


@BOTH_WAYS
def test_no_samples_have_no_results(max_values: int) -> None:
    none = np.empty((0, N_FEATURES), np.float32)
    predict_classes = model.tabulate(model.booster, model.choose_classes, max_values)
    assert predict_classes(none).shape == (0,)
    predict_proba = model.tabulate(model.booster, unchanged, max_values)
    assert predict_proba(none).shape == (0, len(CLASSES))


class Spy:
    """A conversion of probabilities that notes how many it was given."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(self, probabilities: model.Array) -> model.Array:
        self.counts.append(len(probabilities))
        return probabilities


def test_xgboost_runs_once_per_cell_if_there_is_a_table() -> None:
    spy = Spy()
    look_up = model.tabulate(model.booster, spy)
    look_up(np.array([ONE, OTHER_ONE]))
    cells = math.prod(len(edge) + 1 for edge in model.find_edges(model.booster).values())
    assert spy.counts == ([cells] if model.fits_table(model.booster) else [2])


def combine_edges(booster: xgboost.Booster, n_samples: int, optional: list[bool]) -> model.Array:
    """Return random samples of thresholds, their neighbors, values beyond all, and NaN."""
    random = np.random.default_rng(42)
    edges = model.find_edges(booster)
    columns = []
    for feature, is_optional in enumerate(optional):
        edge = edges.get(feature, np.empty(0, np.float32))
        edge = edge[np.isfinite(edge)]
        neighbors = [np.nextafter(edge, np.float32(to)) for to in (-np.inf, np.inf)]
        extremes = [-1e38, -1, 0, 100, 1e38, *([np.nan] if is_optional else [])]
        values = np.concatenate([edge, *neighbors, np.array(extremes, np.float32)])
        columns.append(random.choice(values, n_samples))
    return np.stack(columns, axis=-1)


@BOTH_WAYS
def test_probabilities_equal_plain_xgboosts_to_the_bit(
    classifier: xgboost.XGBClassifier, max_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_classes = model.tabulate(model.booster, model.choose_classes, max_values)
    predict_proba = model.tabulate(model.booster, unchanged, max_values)
    factors = np.random.default_rng(42).uniform(0, 2, (20_000, N_FEATURES))
    near_one = (factors * np.nan_to_num(ONE)).astype(np.float32)
    for samples in (combine_edges(model.booster, 40_000, OPTIONAL), near_one):
        assert predict_proba(samples).tobytes() == classifier.predict_proba(samples).tobytes()
        assert (predict_classes(samples) == classifier.predict(samples)).all()
        one_by_one = np.concatenate([predict_proba(samples[i : i + 1]) for i in range(500)])
        assert one_by_one.tobytes() == classifier.predict_proba(samples[:500]).tobytes()
    monkeypatch.setattr(model, "predict_classes", predict_classes)
    for sample in near_one[:500]:
        assert model.predict(sample) == classifier.predict(sample[None])[0]


def fit(
    monkeypatch: pytest.MonkeyPatch,
    n_features: int,
    n_classes: int,
    optional: bool = False,
    n_samples: int = 300,
    **parameters: Any,
) -> tuple[xgboost.XGBClassifier, model.Array]:
    """Fit another model than the published one, and make the module believe in it."""
    random = np.random.default_rng(n_features)
    samples = random.uniform(-5, 2_000, (n_samples, n_features)).astype(np.float32)
    if optional:
        samples[random.random(samples.shape) < 0.2] = np.nan
    monkeypatch.setattr(model, "N_FEATURES", n_features)
    monkeypatch.setattr(model, "OPTIONAL", [optional] * n_features)
    monkeypatch.setattr(model, "CLASSES", [str(index) for index in range(n_classes)])
    classifier = xgboost.XGBClassifier(n_jobs=1, **parameters)
    classifier.fit(samples, np.arange(n_samples) % n_classes)
    return classifier, samples


@pytest.mark.parametrize("optional", [False, True], ids=["required", "optional"])
@pytest.mark.parametrize(
    ("n_features", "n_classes", "n_estimators", "has_table"),
    [(2, 3, 3, True), (4, 5, 3, True), (13, 3, 1, True), (3, 2, 4, True), (70, 2, 3, True),
     (40, 3, 50, False), (2, 26, 2, True)],
)  # fmt: skip
def test_table_and_xgboost_agree_on_other_models(
    monkeypatch: pytest.MonkeyPatch,
    n_features: int,
    n_classes: int,
    n_estimators: int,
    has_table: bool,
    optional: bool,
) -> None:
    classifier, _ = fit(
        monkeypatch, n_features, n_classes, optional, n_estimators=n_estimators, max_depth=2
    )
    booster = classifier.get_booster()
    assert model.fits_table(booster) == has_table
    samples = combine_edges(booster, 10_000, [optional] * n_features)
    predict_proba = model.tabulate(booster, unchanged)
    expected = classifier.predict_proba(samples)
    assert predict_proba(samples).tobytes() == expected.tobytes()
    one_by_one = np.concatenate([predict_proba(samples[i : i + 1]) for i in range(100)])
    assert one_by_one.tobytes() == expected[:100].tobytes()
    predict_classes = model.tabulate(booster, model.choose_classes)
    assert (predict_classes(samples) == classifier.predict(samples)).all()


def test_model_without_splits_has_a_table_of_one_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, samples = fit(monkeypatch, 3, 3, n_estimators=1, gamma=1e9)
    predict_proba = model.tabulate(classifier.get_booster(), unchanged)
    assert predict_proba(samples).tobytes() == classifier.predict_proba(samples).tobytes()


def test_large_table_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, samples = fit(monkeypatch, 4, 3, n_samples=2_000, n_estimators=20)
    spy = Spy()
    predict_proba = model.tabulate(classifier.get_booster(), spy)
    assert spy.counts == []
    assert predict_proba(samples[:5]).shape == (5, 3)
    assert spy.counts == [5]


def test_threads_may_run_xgboost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, samples = fit(monkeypatch, 8, 3, n_estimators=50)
    booster = classifier.get_booster()
    expected = [classifier.predict_proba(samples[i : i + 7]).tobytes() for i in range(200)]

    def run(index: int) -> bool:
        part = samples[index : index + 7]
        return model.predict_proba(booster, part).tobytes() == expected[index]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, [*range(200)] * 20))


@BOTH_WAYS
def test_double_is_rounded_to_float32_as_xgboost_does(
    classifier: xgboost.XGBClassifier, max_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_classes = model.tabulate(model.booster, model.choose_classes, max_values)
    monkeypatch.setattr(model, "predict_classes", predict_classes)
    random = np.random.default_rng(42)
    edges = model.find_edges(model.booster)
    columns = []
    for feature in range(N_FEATURES):
        double = edges.get(feature, np.zeros(1)).astype(np.float64)
        double = double[np.isfinite(double)]
        neighbors = [np.nextafter(double, -np.inf), np.nextafter(double, np.inf), np.zeros(1)]
        columns.append(random.choice(np.concatenate(neighbors), 200))
    for sample in np.stack(columns, axis=-1):
        assert model.predict(sample) == classifier.predict(sample[None])[0]


REQUIRED = next((index for index, is_optional in enumerate(OPTIONAL) if not is_optional), None)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([ONE, OTHER_ONE], rf"got \(2, {N_FEATURES}\)"),
        (ONE[:-1], rf"got \({N_FEATURES - 1},\)"),
        ([*ONE, 1], rf"got \({N_FEATURES + 1},\)"),
        ([[ONE]], rf"got \(1, 1, {N_FEATURES}\)"),
        (5.9, r"got \(\)"),
        ([*ONE[:-1], -np.inf], "finite"),
        (["long", *ONE[1:]], "float"),
    ],
    ids=["two", "too-short", "too-long", "three-dimensions", "number", "infinity", "text"],
)
def test_predict_rejects_invalid_samples(sample: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(sample)


@pytest.mark.parametrize("optional", [False, True], ids=["required", "optional"])
def test_predict_rejects_nan_unless_the_feature_is_optional(
    monkeypatch: pytest.MonkeyPatch, optional: bool
) -> None:
    classifier, _ = fit(monkeypatch, 3, 3, optional, n_estimators=3)
    predict_classes = model.tabulate(classifier.get_booster(), model.choose_classes)
    monkeypatch.setattr(model, "predict_classes", predict_classes)
    sample = [1, None, 3]
    if optional:
        missing = np.array([[1, np.nan, 3]], np.float32)
        assert model.predict(sample) == classifier.predict(missing)[0]
    else:
        with pytest.raises(ValueError, match="finite"):
            model.predict(sample)


def test_predict_rejects_values_beyond_float32() -> None:
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(ValueError, match="finite"):
        model.predict(np.array([*ONE[:-1].astype(float), 1e39]))


def write(path: Path, pickled: bytes) -> Path:
    packed = gzip.compress(pickled)
    path.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return path


def load_error(path: Path) -> str:
    with pytest.raises(model.ModelError) as error:
        model.load(path)
    return str(error.value)


@pytest.mark.parametrize("unreadable", ["iris.pgz", "iris.pgz.sha256"])
def test_unreadable_file_is_named(tmp_path: Path, unreadable: str) -> None:
    path = write(tmp_path / "iris.pgz", b"")
    (tmp_path / unreadable).unlink()
    (tmp_path / unreadable).mkdir()  # which root cannot read either
    assert load_error(path) == f"{tmp_path / unreadable} is missing or unreadable. {model.CURE}"


def test_missing_digest_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "iris.pgz", b"")
    (tmp_path / "iris.pgz.sha256").unlink()
    assert load_error(path) == f"{path}.sha256 is missing or unreadable. {model.CURE}"


@pytest.mark.parametrize("position", [0, 5, 1_000, -5, -1])
def test_corrupted_file_is_not_decompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    path = write(tmp_path / "iris.pgz", gzip.decompress(model.PATH.read_bytes()))
    corrupted = bytearray(path.read_bytes())
    corrupted[position] ^= 1
    path.write_bytes(corrupted)
    monkeypatch.setattr(gzip, "decompress", lambda packed: pytest.fail("decompressed"))
    assert load_error(path) == (
        f"{path} is corrupted: it does not match the digest in iris.pgz.sha256. {model.CURE}"
    )


def test_empty_digest_does_not_match(tmp_path: Path) -> None:
    path = write(tmp_path / "iris.pgz", b"")
    (tmp_path / "iris.pgz.sha256").write_text("")
    assert "is corrupted" in load_error(path)


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch attacked",)


def test_pickle_with_another_global_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "iris.pgz", pickle.dumps(Attack()))
    assert f"{os.system.__module__}.system is not allowed in a model file" in load_error(path)
    assert not Path("attacked").exists()


def test_model_of_another_xgboost_names_both_versions(tmp_path: Path) -> None:
    pickled = gzip.decompress(model.PATH.read_bytes())
    older = pickled.replace(b"\x03i\x03i\x02i\x00", b"\x03i\x02i\x01i\x04")
    assert older != pickled
    path = write(tmp_path / "iris.pgz", older)
    assert load_error(path) == (
        f"{path} was written by XGBoost 2.1.4, but 3.2.0 is installed. {model.CURE}"
    )


FORK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import model
import numpy as np
sample = [json.loads(sys.argv[3])]
samples = np.array(sample * 10_000, np.float32)
model.predict_classes = model.tabulate(model.booster, model.choose_classes, int(sys.argv[2]))
model.predict_classes(samples)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(model.predict(sample) + model.predict_classes(samples)[0])
"""


@BOTH_WAYS
def test_predictions_work_after_a_fork_from_any_folder(tmp_path: Path, max_values: int) -> None:
    sample = json.dumps(list(SAMPLE.values()))
    command = [sys.executable, "-c", FORK, ROOT, str(max_values), sample]
    assert subprocess.run(command, cwd=tmp_path, timeout=30).returncode == 2 * int(LABEL)

import gzip
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

import model
from tests import iris
from tests.service import PICKLE, ROOT

ONE = list(iris.FLOWER.values())
OTHER = list(iris.OTHER.values())
FEATURES = len(iris.FLOWER)
CLASSES = len(iris.PROBABILITIES)

BOTH_WAYS = pytest.mark.parametrize(
    "max_cells", [model.MAX_CELLS, 0], ids=["from the table", "from XGBoost"]
)


def unchanged(probabilities: model.Array) -> model.Array:
    return probabilities


def answers(convert: model.ArrayFunction, max_cells: int) -> model.ArrayFunction:
    """Return a function of flowers that answers in one of both ways."""
    return model.tabulate(model.booster, convert, max_cells)


@pytest.fixture(scope="session")
def classifier() -> xgboost.XGBClassifier:
    """The model as anybody would load it, with nothing of ours."""
    return pickle.loads(gzip.decompress(PICKLE.read_bytes()))


@BOTH_WAYS
@pytest.mark.parametrize("flower", [ONE, [ONE], np.array(ONE), np.array([ONE], np.float32)])
def test_one_flower_has_its_class(
    flower: Any, max_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "classes", answers(model.most_probable, max_cells))
    assert str(model.predict(flower)) == iris.LABEL


@BOTH_WAYS
def test_many_flowers_have_their_classes(max_cells: int) -> None:
    flowers = np.array([ONE, OTHER], np.float32)
    expected = [int(iris.LABEL), int(iris.OTHER_LABEL)]
    assert answers(model.most_probable, max_cells)(flowers).tolist() == expected


@BOTH_WAYS
def test_one_flower_has_its_probabilities(max_cells: int) -> None:
    probabilities = answers(unchanged, max_cells)(np.array([OTHER], np.float32))
    assert probabilities.dtype == np.float32
    expected = list(iris.OTHER_PROBABILITIES.values())
    assert probabilities[0].tolist() == pytest.approx(expected, abs=1e-6)


@BOTH_WAYS
def test_no_flowers_have_no_classes(max_cells: int) -> None:
    none = np.empty((0, FEATURES), np.float32)
    assert answers(model.most_probable, max_cells)(none).shape == (0,)
    assert answers(unchanged, max_cells)(none).shape == (0, CLASSES)


def test_xgboost_is_asked_once_for_each_cell() -> None:
    asked: list[int] = []

    def convert(probabilities: model.Array) -> model.Array:
        asked.append(len(probabilities))
        return probabilities

    look_up = model.tabulate(model.load(ROOT / "model"), convert)
    look_up(np.array([ONE, OTHER], np.float32))
    assert asked == [iris.ASKED]


def around(booster: xgboost.Booster, flowers: int) -> model.Array:
    """Return random flowers whose lengths are thresholds, their neighbours or beyond them all."""
    edges, _ = model.thresholds(booster)
    extremes = np.array([-1e38, 0, 100, 1e38], np.float32)
    lengths = [
        np.concatenate([edge, np.nextafter(edge, -extremes[3]), np.nextafter(edge, extremes[3])])
        for edge in edges
    ]
    random = np.random.default_rng(42)
    columns = [random.choice(np.concatenate([length, extremes]), flowers) for length in lengths]
    return np.stack(columns, axis=-1)


@BOTH_WAYS
def test_every_answer_is_xgboosts_to_the_bit(
    classifier: xgboost.XGBClassifier, max_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = answers(model.most_probable, max_cells)
    # Each length up to twice that of a flower, which most thresholds are near.
    factors = np.random.default_rng(42).uniform(0, 2, (100_000, FEATURES))
    random = (factors * ONE).astype(np.float32)
    for flowers in (around(classifier.get_booster(), 200_000), random):
        expected = classifier.get_booster().inplace_predict(flowers)
        assert answers(unchanged, max_cells)(flowers).tobytes() == expected.tobytes()
        assert (classes(flowers) == classifier.predict(flowers)).all()
    monkeypatch.setattr(model, "classes", classes)
    for flower in random[:2_000]:
        assert model.predict(flower) == classifier.predict(flower[None])[0]


@pytest.mark.parametrize(("features", "classes"), [(2, 3), (4, 5), (13, 3)])
def test_table_and_xgboost_agree_on_other_models(
    features: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "SPECIES", tuple("abcde"[:classes]))
    random = np.random.default_rng(features)
    lengths = random.uniform(-5, 2_000, (300, features))
    species = random.integers(0, classes, 300)
    fitted = xgboost.XGBClassifier(n_estimators=3, max_depth=2).fit(lengths, species)
    booster = fitted.get_booster()
    booster.set_param({"nthread": 1})
    edges, trees = model.thresholds(booster)
    assert trees == 3 * classes and max(edge.max(initial=0) for edge in edges) > 9
    flowers = around(booster, 10_000)
    look_up = model.tabulate(booster, unchanged)
    assert "look_up" in look_up.__qualname__
    assert look_up(flowers).tobytes() == booster.inplace_predict(flowers).tobytes()
    one = np.concatenate([look_up(flowers[n : n + 1]) for n in range(100)])
    assert one.tobytes() == look_up(flowers[:100]).tobytes()


def test_no_start_waits_for_a_large_table() -> None:
    random = np.random.default_rng(0)
    lengths, species = random.uniform(0, 8, (2_000, 4)), random.integers(0, 3, 2_000)
    booster = xgboost.XGBClassifier(n_estimators=20).fit(lengths, species).get_booster()
    asked: list[int] = []

    def convert(probabilities: model.Array) -> model.Array:
        asked.append(len(probabilities))
        return probabilities

    answer = model.tabulate(booster, convert)
    assert asked == []
    assert answer(lengths[:5].astype(np.float32)).shape == (5, 3)
    assert asked == [5]


@BOTH_WAYS
def test_a_double_is_rounded_to_float32_as_xgboost_does(
    classifier: xgboost.XGBClassifier, max_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "classes", answers(model.most_probable, max_cells))
    random = np.random.default_rng(42)
    columns = []
    for edge in model.thresholds(classifier.get_booster())[0]:
        double = edge.astype(np.float64)
        around = [np.nextafter(double, -np.inf), np.nextafter(double, np.inf), np.zeros(1)]
        columns.append(random.choice(np.concatenate(around), 200))
    for flower in np.stack(columns, axis=-1):
        assert model.predict(flower) == classifier.predict(flower[None])[0]


@pytest.mark.parametrize(
    ("flower", "message"),
    [
        ([ONE, OTHER], "one flower"),
        (ONE[:-1], rf"not \({FEATURES - 1},\)"),
        ([*ONE, 1], rf"not \({FEATURES + 1},\)"),
        ([[ONE]], rf"not \(1, 1, {FEATURES}\)"),
        (5.9, r"not \(\)"),
        ([*ONE[:-1], np.nan], "finite"),
        ([*ONE[:-1], -np.inf], "finite"),
        (["long", *ONE[1:]], "float"),
    ],
)
def test_predict_refuses_what_is_not_one_flower(flower: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(flower)


def test_a_length_beyond_float32_is_refused() -> None:
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(ValueError, match="finite"):
        model.predict(np.array([*ONE[:-1], 1e39]))


def write(path: Path, pickled: bytes) -> Path:
    packed = gzip.compress(pickled)
    path.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(model.ModelError) as error:
        model.load(path.parent)
    return str(error.value)


@pytest.mark.parametrize("unreadable", ["iris.pgz", "iris.pgz.sha256"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, unreadable: str) -> None:
    path = write(tmp_path / "iris.pgz", b"")
    (tmp_path / unreadable).unlink()
    (tmp_path / unreadable).mkdir()  # which root cannot read either
    assert refusal(path) == f"{tmp_path / unreadable} is not readable. {model.RETRAIN}"


def test_a_missing_digest_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "iris.pgz", b"")
    (tmp_path / "iris.pgz.sha256").unlink()
    assert refusal(path) == f"{path}.sha256 is not readable. {model.RETRAIN}"


@pytest.mark.parametrize("place", [0, 5, 4_000, 9_999, -1])
def test_a_damaged_file_is_not_even_decompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    path = write(tmp_path / "iris.pgz", gzip.decompress(PICKLE.read_bytes()))
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    monkeypatch.setattr(gzip, "decompress", lambda packed: pytest.fail("decompressed"))
    assert "is damaged" in refusal(path)


def test_an_empty_digest_is_no_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "iris.pgz", b"")
    (tmp_path / "iris.pgz.sha256").write_text("")
    assert "is damaged" in refusal(path)


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch attacked",)


def test_a_pickle_resolves_no_other_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "iris.pgz", pickle.dumps(Attack()))
    refused = refusal(path)
    assert f"asks for {os.system.__module__}.system: only an XGBClassifier is served" in refused
    assert not Path("attacked").exists()


def test_another_version_is_named_with_the_installed_one(tmp_path: Path) -> None:
    pickled = gzip.decompress(PICKLE.read_bytes())
    older = pickled.replace(b"\x03i\x03i\x02i\x00", b"\x03i\x02i\x01i\x04")
    assert older != pickled
    path = write(tmp_path / "iris.pgz", older)
    assert refusal(path) == (
        f"{path} was written by XGBoost 2.1.4, but 3.2.0 is installed. "
        "Retrain it: python model/train.py"
    )


def fitted(features: int, classes: int, **parameters: Any) -> xgboost.XGBClassifier:
    species = np.arange(30) % classes
    lengths = np.random.default_rng(0).uniform(0, 8, (30, features))
    return xgboost.XGBClassifier(n_estimators=1, **parameters).fit(lengths, species)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (fitted(FEATURES + 1, CLASSES), f"has {FEATURES + 1} features and {CLASSES} classes"),
        (fitted(FEATURES, CLASSES + 1), f"has {FEATURES} features and {CLASSES + 1} classes"),
        (fitted(FEATURES, 2), f"has {FEATURES} features and 2 classes"),
        (
            fitted(FEATURES, CLASSES).get_booster(),
            "holds a Booster: only an XGBClassifier is served here",
        ),
        (bytearray(), "holds a bytearray: only an XGBClassifier is served here"),
        (
            fitted(FEATURES, CLASSES, objective="multi:softmax"),
            "does not answer with a probability for each class: train with objective=",
        ),
        (fitted(FEATURES, CLASSES, booster="dart"), "is a dart model: train with booster='gbtree'"),
        (
            fitted(FEATURES, CLASSES, booster="gblinear"),
            "is a gblinear model: train with booster='gbtree'",
        ),
    ],
)
def test_another_model_is_refused(tmp_path: Path, pickled: Any, message: str) -> None:
    refused = refusal(write(tmp_path / "iris.pgz", pickle.dumps(pickled)))
    assert message in refused
    assert model.RETRAIN not in refused  # which would only make the same again


def test_a_binary_model_is_refused_for_two_species(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "SPECIES", ("one", "other"))
    path = write(tmp_path / "iris.pgz", pickle.dumps(fitted(FEATURES, 2)))
    assert "objective='multi:softprob'" in refusal(path)


@pytest.mark.parametrize("names", [[], ["iris.pgz", "wine.pgz"]])
def test_the_folder_has_one_model(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert f"has {len(names)} files" in refusal(tmp_path / "iris.pgz")


FORK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import model
import numpy as np
flower = [json.loads(sys.argv[3])]
flowers = np.array(flower * 10_000, np.float32)
booster = model.load(Path(model.__file__).parent / "model")
model.classes = model.tabulate(booster, model.most_probable, int(sys.argv[2]))
model.classes(flowers)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(model.predict(flower) + model.classes(flowers)[0])
"""


@pytest.mark.parametrize("max_cells", [model.MAX_CELLS, 0])
def test_it_answers_after_a_fork_from_any_folder(tmp_path: Path, max_cells: int) -> None:
    command = [sys.executable, "-c", FORK, ROOT, str(max_cells), json.dumps(ONE)]
    assert subprocess.run(command, cwd=tmp_path, timeout=30).returncode == 2 * int(iris.LABEL)

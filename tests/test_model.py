import gzip
import hashlib
import itertools
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

import model
from tests.service import ROOT

VIRGINICA = [5.9, 3, 5.1, 1.8]
SETOSA = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture(params=[model.MAX_CELLS, 0], ids=["table", "ensemble"])
def answers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of answering, one after the other, behind the module's functions."""
    iris = model.tabulate(model.load(model.MODEL), request.param)
    monkeypatch.setattr(model, "_iris", iris)


@pytest.fixture(scope="session")
def classifier() -> xgboost.XGBClassifier:
    """The model as anybody would load it, with nothing of ours."""
    return pickle.loads(gzip.decompress(model.MODEL.read_bytes()))


@pytest.mark.parametrize(
    "flower", [VIRGINICA, [VIRGINICA], np.array(VIRGINICA), np.array([VIRGINICA], np.float32)]
)
def test_one_flower_has_its_class(answers: None, flower: Any) -> None:
    assert str(model.predict(flower)) == "2"


def test_many_flowers_have_their_classes(answers: None) -> None:
    assert model.predict_classes([VIRGINICA, SETOSA]).tolist() == [2, 0]


def test_one_flower_has_its_probabilities(answers: None) -> None:
    probabilities = model.predict_proba([SETOSA])
    assert probabilities.dtype == np.float32
    assert probabilities.tolist()[0] == pytest.approx([0.993091, 0.005326, 0.001583], abs=1e-6)


def test_no_flowers_have_no_classes(answers: None) -> None:
    assert model.predict_classes(np.empty((0, 4))).shape == (0,)
    assert model.predict_proba(np.empty((0, 4))).shape == (0, 3)


def test_the_table_has_1960_cells() -> None:
    iris = model.tabulate(model.load(model.MODEL))
    assert isinstance(iris, model.Table)
    assert iris.classes.shape == (7, 7, 10, 4)
    assert iris.probabilities.shape == (7, 7, 10, 4, 3)


def test_every_answer_is_xgboosts_to_the_bit(
    answers: None, classifier: xgboost.XGBClassifier
) -> None:
    edges = model.thresholds(classifier.get_booster())
    around = [
        np.concatenate([edge, np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(9))])
        for edge in edges
    ]
    on_thresholds = np.array(list(itertools.product(*around)), np.float32)
    random = np.random.default_rng(42).uniform(0, 8, (100_000, 4)).astype(np.float32)
    extremes = np.array(list(itertools.product([-1e38, 0, 100, 1e38], repeat=4)), np.float32)
    for flowers in (on_thresholds, random, extremes):
        expected = classifier.get_booster().inplace_predict(flowers)
        assert model.predict_proba(flowers).tobytes() == expected.tobytes()
        assert (model.predict_classes(flowers) == classifier.predict(flowers)).all()
    for flower in random[:2_000]:
        assert model.predict(flower) == model.predict_classes([flower])[0]


def test_a_double_is_rounded_to_float32_as_xgboost_does(
    answers: None, classifier: xgboost.XGBClassifier
) -> None:
    edges = [edge.astype(np.float64) for edge in model.thresholds(classifier.get_booster())]
    around = [np.concatenate([np.nextafter(edge, 0), np.nextafter(edge, 9)]) for edge in edges]
    for flower in list(itertools.product(*around))[::100]:
        assert model.predict(flower) == classifier.predict(np.array([flower]))[0]


@pytest.mark.parametrize(
    ("flower", "message"),
    [
        ([VIRGINICA, SETOSA], "one flower"),
        (VIRGINICA[:3], r"not \(3,\)"),
        ([*VIRGINICA, 1], r"not \(5,\)"),
        ([[VIRGINICA]], r"not \(1, 1, 4\)"),
        (5.9, r"not \(\)"),
        ([5.9, 3, 5.1, np.nan], "finite"),
        ([5.9, 3, 5.1, -np.inf], "finite"),
        (["long", 3, 5.1, 1.8], "float"),
    ],
)
def test_predict_refuses_what_is_not_one_flower(flower: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(flower)


@pytest.mark.parametrize("predict", [model.predict_classes, model.predict_proba])
@pytest.mark.parametrize(
    ("flowers", "message"),
    [
        (VIRGINICA, r"not \(4,\)"),
        ([VIRGINICA[:3]], r"not \(1, 3\)"),
        ([SETOSA, [np.nan, 3, 5.1, 1.8]], "finite"),
    ],
)
def test_other_shapes_and_lengths_are_refused(predict: Any, flowers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(flowers)


def test_a_length_beyond_float32_is_refused() -> None:
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(ValueError, match="finite"):
        model.predict(np.array([5.9, 3, 5.1, 1e39]))


def write(path: Path, pickled: bytes) -> Path:
    packed = gzip.compress(pickled)
    path.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(model.ModelError) as error:
        model.load(path)
    return str(error.value)


@pytest.mark.parametrize("missing", ["iris.pgz", "iris.pgz.sha256"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "iris.pgz", b"")
    (tmp_path / missing).unlink()
    assert refusal(path) == f"{tmp_path / missing} is not readable. {model.RETRAIN}"


@pytest.mark.parametrize("place", [0, 5, 4_000, 9_999, -1])
def test_a_damaged_file_is_not_even_decompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    path = write(tmp_path / "iris.pgz", gzip.decompress(model.MODEL.read_bytes()))
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
    assert f"asks for {os.system.__module__}.system" in refusal(path)
    assert not Path("attacked").exists()


def test_another_version_is_named_with_the_installed_one(tmp_path: Path) -> None:
    pickled = gzip.decompress(model.MODEL.read_bytes())
    older = pickled.replace(b"\x03i\x03i\x02i\x00", b"\x03i\x02i\x01i\x04")
    assert older != pickled
    path = write(tmp_path / "iris.pgz", older)
    assert refusal(path) == (
        f"{path} was written by XGBoost 2.1.4, but 3.2.0 is installed. "
        "Retrain it: python model/train.py"
    )


def fitted(features: int, classes: int) -> xgboost.XGBClassifier:
    species = np.arange(30) % classes
    return xgboost.XGBClassifier(n_estimators=1).fit(np.ones((30, features)), species)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (fitted(5, 3), "has 5 features and 3 classes"),
        (fitted(4, 4), "has 4 features and 4 classes"),
        (fitted(4, 3).get_booster(), "has None features and None classes"),
        (bytearray(), "has None features and None classes"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, pickled: Any, message: str) -> None:
    assert message in refusal(write(tmp_path / "iris.pgz", pickle.dumps(pickled)))


def test_retraining_writes_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("model", "static"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "model" / "train.py", tmp_path / "model")
    train = [sys.executable, tmp_path / "model" / "train.py"]
    printed = subprocess.run(train, check=True, capture_output=True, text=True).stdout
    assert printed == "accuracy: train 1.000, test 0.933\n"
    for name in ("model/xgboost-iris.pgz", "model/xgboost-iris.pgz.sha256", "static/iris.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), name


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
import model
flower = [[5.9, 3, 5.1, 1.8]]
model._iris = model.tabulate(model.load(model.MODEL), int(sys.argv[2]))
model.predict_classes(flower * 10_000)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(model.predict(flower) + model.predict_classes(flower * 10_000)[0])
"""


@pytest.mark.parametrize("max_cells", [model.MAX_CELLS, 0])
def test_it_answers_after_a_fork_from_any_folder(tmp_path: Path, max_cells: int) -> None:
    command = [sys.executable, "-c", FORK, ROOT, str(max_cells)]
    assert subprocess.run(command, cwd=tmp_path, timeout=30).returncode == 4

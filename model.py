"""The trained iris model, loaded once at import, and every answer it can ever give."""

import gzip
import hashlib
import io
import json
import math
import pickle
import re
from bisect import bisect
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import ArrayLike, NDArray

SPECIES = ("setosa", "versicolor", "virginica")  # by class: 0, 1, 2

MODEL = Path(__file__).parent / "model" / "xgboost-iris.pgz"
PICKLED_NAMES = {"xgboost.sklearn.XGBClassifier", "xgboost.core.Booster", "builtins.bytearray"}
RETRAIN = "Retrain it: python model/train.py"

# Filling a table of this size takes 2.3 seconds and 95 MB; the one of iris has 1,960 cells.
MAX_CELLS = 2_000_000


class ModelError(Exception):
    """The model file cannot be served; the message says why and what to do."""


class _Unpickler(pickle.Unpickler):
    """Resolve the names that a pickled XGBClassifier needs and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in PICKLED_NAMES:
            raise ModelError(f"The pickle asks for {module}.{name}: do not trust it. {RETRAIN}")
        return super().find_class(module, name)


def load(path: Path) -> xgboost.Booster:
    """Return the booster of the XGBClassifier in a gzipped pickle, set to one thread.

    The file's SHA-256 digest stands beside it, in `<name>.sha256`, and is checked before anything
    is decompressed: a damaged pickle can crash or hang the interpreter.

    Raises ModelError if a file is missing, the digest is another, the pickle asks for a name
    beyond PICKLED_NAMES or was written by another minor version of XGBoost, or the model is not
    one of four features and three classes.
    """
    try:
        packed = path.read_bytes()
        digest = path.with_name(f"{path.name}.sha256").read_bytes()[:64]
    except OSError as error:
        raise ModelError(f"{error.filename} is not readable. {RETRAIN}") from error
    if hashlib.sha256(packed).hexdigest().encode() != digest:
        raise ModelError(f"{path} is damaged: {path.name}.sha256 has another digest. {RETRAIN}")
    pickled = gzip.decompress(packed)

    # XGBoost writes its version into the pickle as UBJSON: an array of three int8.
    written_by = re.search(rb"version\[#L\x00{7}\x03i(.)i(.)i(.)", pickled, re.DOTALL)
    if written_by:
        version = ".".join(str(ord(part)) for part in written_by.groups())
        if version.split(".")[:2] != xgboost.__version__.split(".")[:2]:
            raise ModelError(
                f"{path} was written by XGBoost {version}, "
                f"but {xgboost.__version__} is installed. {RETRAIN}"
            )

    # One thread: libgomp's threads do not survive a fork, and a prediction after it would hang.
    with xgboost.config_context(nthread=1):
        classifier = _Unpickler(io.BytesIO(pickled)).load()
    features = getattr(classifier, "n_features_in_", None)
    classes = getattr(classifier, "n_classes_", None)
    if (features, classes) != (4, len(SPECIES)):
        raise ModelError(
            f"{path} has {features} features and {classes} classes, "
            f"not 4 and {len(SPECIES)}. {RETRAIN}"
        )
    booster = classifier.get_booster()
    booster.set_param({"nthread": 1})
    return booster


def thresholds(booster: xgboost.Booster) -> list[NDArray[np.float32]]:
    """Return each feature's split thresholds (cm), ascending."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    splits: list[set[float]] = [set() for _ in range(booster.num_features())]
    for tree in trees:
        for child, feature, threshold in zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        ):
            if child != -1:  # a leaf otherwise
                splits[feature].add(threshold)
    return [np.array(sorted(split), np.float32) for split in splits]


class Table:
    """Every answer of a tree ensemble, in scikit-learn's `predict` and `predict_proba`.

    An ensemble is constant between its thresholds, so one flower in each cell of the grid that
    they make, asked once, answers for every flower in that cell, to the bit.
    """

    def __init__(self, booster: xgboost.Booster, thresholds: list[NDArray[np.float32]]) -> None:
        self.thresholds = thresholds
        self.lists = [edges.tolist() for edges in thresholds]
        # A cell's flower is its lower corner: XGBoost goes left where length < threshold.
        corners = [np.insert(edges, 0, np.finfo(np.float32).min) for edges in thresholds]
        flowers = np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1)
        answers = booster.inplace_predict(flowers.reshape(-1, len(corners)))
        self.probabilities = answers.reshape(*flowers.shape[:-1], -1)
        self.classes = self.probabilities.argmax(axis=-1)

    def predict_one(self, flower: list[float]) -> int:
        # bisect is searchsorted for one: 3 µs where NumPy takes 20.
        return self.classes.item(*map(bisect, self.lists, flower))

    def predict(self, flowers: NDArray[np.float32]) -> NDArray[np.intp]:
        return self.classes[self._cells(flowers)]

    def predict_proba(self, flowers: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.probabilities[self._cells(flowers)]

    def _cells(self, flowers: NDArray[np.float32]) -> tuple[NDArray[np.intp], ...]:
        pairs = zip(self.thresholds, flowers.T, strict=True)
        return tuple(edges.searchsorted(lengths, side="right") for edges, lengths in pairs)


class Ensemble:
    """What a Table does, for a model too large for one: every flower is asked of XGBoost."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self.booster = booster

    def predict_one(self, flower: list[float]) -> int:
        return self.predict(np.array([flower], np.float32)).item()

    def predict(self, flowers: NDArray[np.float32]) -> NDArray[np.intp]:
        return self.predict_proba(flowers).argmax(axis=-1)

    def predict_proba(self, flowers: NDArray[np.float32]) -> NDArray[np.float32]:
        if not len(flowers):  # which XGBoost refuses
            return np.empty((0, len(SPECIES)), np.float32)
        return self.booster.inplace_predict(flowers)


def tabulate(booster: xgboost.Booster, max_cells: int = MAX_CELLS) -> Table | Ensemble:
    """Return the booster's Table, or an Ensemble where that would have more than `max_cells`."""
    edges = thresholds(booster)
    cells = math.prod(len(edge) + 1 for edge in edges)
    return Table(booster, edges) if cells <= max_cells else Ensemble(booster)


_iris = tabulate(load(MODEL))


def predict(input: ArrayLike) -> int:
    """Return the class of one flower: 0, 1 or 2, the index of its name in SPECIES.

    `input` has the shape (4,) or (1, 4): sepal length, sepal width, petal length and petal width,
    in cm, of any dtype that NumPy casts to float32.

    Raises ValueError for more than one flower, another shape, or a length that is not finite.
    """
    flower = np.asarray(input, np.float32)  # rounded as XGBoost does
    if flower.shape not in ((4,), (1, 4)):
        raise ValueError(
            f"predict takes one flower, of shape (4,) or (1, 4), not {flower.shape}: "
            "predict_classes takes many"
        )
    lengths = flower.ravel().tolist()
    if not all(map(math.isfinite, lengths)):
        raise ValueError(f"a flower's lengths are finite float32 numbers, not {lengths}")
    return _iris.predict_one(lengths)


def predict_classes(flowers: ArrayLike) -> NDArray[np.intp]:
    """Return the classes of many flowers, shape (n, 4) to (n,).

    The columns and dtypes are those of `predict`. Raises ValueError for another shape, or a
    length that is not finite.
    """
    return _iris.predict(_checked(flowers))


def predict_proba(flowers: ArrayLike) -> NDArray[np.float32]:
    """Return each flower's probabilities in the order of SPECIES, shape (n, 4) to (n, 3).

    They are the model's own, in float32. Takes and raises what `predict_classes` does.
    """
    return _iris.predict_proba(_checked(flowers))


def _checked(flowers: ArrayLike) -> NDArray[np.float32]:
    rounded = np.asarray(flowers, np.float32)
    if rounded.ndim != 2 or rounded.shape[1] != 4:
        raise ValueError(f"flowers have the shape (n, 4), not {rounded.shape}")
    if not np.isfinite(rounded).all():
        raise ValueError("a flower's lengths are finite float32 numbers")
    return rounded

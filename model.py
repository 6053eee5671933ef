"""The trained iris model, loaded once at import, and its answer for every flower."""

import gzip
import hashlib
import io
import json
import math
import pickle
import re
from bisect import bisect
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import ArrayLike, NDArray

SPECIES = ("setosa", "versicolor", "virginica")  # by class: 0, 1, 2
N_FEATURES = 4  # sepal length, sepal width, petal length, petal width, in cm
MAX_CELLS = 100_000  # iris has 1,960; so many hold 20 MB of answers
MAX_EVALUATIONS = 25_000_000  # cells times trees: XGBoost evaluates them in half a second
PICKLED_NAMES = {"xgboost.sklearn.XGBClassifier", "xgboost.core.Booster", "builtins.bytearray"}
RETRAIN = "Retrain it: python model/train.py"

Array = NDArray[Any]
Answer = Callable[[Array], Array]


class ModelError(Exception):
    """The model file cannot be served; the message says why and what to do."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in PICKLED_NAMES:
            raise ModelError(f"The pickle asks for {module}.{name}: do not trust it. {RETRAIN}")
        return super().find_class(module, name)


def load(folder: Path) -> xgboost.Booster:
    """Return the booster of the one XGBClassifier in a folder, set to one thread.

    Raises ModelError unless `<name>.pgz` is a gzipped pickle of gbtree trees, from this minor
    version of XGBoost, that answers N_FEATURES lengths with the probabilities of SPECIES, and
    `<name>.pgz.sha256` is its SHA-256 digest.
    """
    if len(paths := list(folder.glob("*.pgz"))) != 1:
        raise ModelError(f"{folder} has {len(paths)} files *.pgz and has to have one. {RETRAIN}")
    path = paths[0]
    try:
        packed = path.read_bytes()
        digest = path.with_name(f"{path.name}.sha256").read_bytes()[:64]
    except OSError as error:
        raise ModelError(f"{error.filename} is not readable. {RETRAIN}") from error
    # Before anything is decompressed: a damaged pickle can crash or hang the interpreter.
    if hashlib.sha256(packed).hexdigest().encode() != digest:
        raise ModelError(f"{path} is damaged: {path.name}.sha256 has another digest. {RETRAIN}")
    pickled = gzip.decompress(packed)
    # XGBoost writes its version into the pickle as UBJSON: an array of three int8.
    for numbers in re.findall(rb"version\[#L\x00{7}\x03i(.)i(.)i(.)", pickled, re.DOTALL):
        version = ".".join(str(ord(number)) for number in numbers)
        if version.split(".")[:2] != xgboost.__version__.split(".")[:2]:
            raise ModelError(
                f"{path} was written by XGBoost {version}, but {xgboost.__version__} is installed."
                f" {RETRAIN}"
            )
    # One thread: libgomp's threads do not survive a fork, and a prediction after it would hang.
    with xgboost.config_context(nthread=1):
        classifier = _Unpickler(io.BytesIO(pickled)).load()
    features, classes = (getattr(classifier, n, None) for n in ("n_features_in_", "n_classes_"))
    if (features, classes) != (N_FEATURES, len(SPECIES)):
        raise ModelError(
            f"{path} has {features} features and {classes} classes, not {N_FEATURES} and "
            f"{len(SPECIES)}: change model/train.py, or N_FEATURES, SPECIES and run.py's Flower."
        )
    booster = classifier.get_booster()
    booster.set_param({"nthread": 1})
    kind = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
    if kind != "gbtree" or booster.inplace_predict([[0] * N_FEATURES]).shape != (1, len(SPECIES)):
        raise ModelError(
            f"{path} is a {kind} model that does not answer with a probability for each class: "
            "train with booster='gbtree' and objective='multi:softprob', the defaults."
        )
    return booster


@cache
def thresholds(booster: xgboost.Booster) -> tuple[list[NDArray[np.float32]], int]:
    """Return each feature's split thresholds (cm), ascending, and the number of trees."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    columns = ("split_indices", "split_conditions", "left_children")
    feature, edge, left = np.concatenate([list(map(tree.get, columns)) for tree in trees], axis=1)
    splits = [(feature == n) & (left != -1) for n in range(booster.num_features())]  # -1: a leaf
    return [np.unique(edge[split]).astype(np.float32) for split in splits], len(trees)


def tabulate(booster: xgboost.Booster, answer: Answer, max_cells: int = MAX_CELLS) -> Answer:
    """Make a function of probabilities, shape (n, classes), one of flowers, shape (n, features).

    The flowers are float32. An ensemble is constant between its thresholds, so one flower in each
    cell of the grid that they make, asked once, answers for every flower in that cell, to the bit:
    `answer` is called for all cells now. Where they are too many, XGBoost is asked each time.
    """
    edges, trees = thresholds(booster)
    shape = [len(edge) + 1 for edge in edges]

    def ask(flowers: Array) -> Array:
        one_more = np.pad(flowers, ((0, 1), (0, 0)))  # XGBoost refuses an empty array
        return answer(booster.inplace_predict(one_more)[:-1])

    if math.prod(shape) > min(max_cells, MAX_EVALUATIONS // trees):
        return ask

    # A cell's flower is its lower corner: XGBoost goes left where length < threshold.
    corners = [np.insert(edge, 0, np.finfo(np.float32).min) for edge in edges]
    answers = ask(np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, len(edges)))
    table = answers.reshape(*shape, *answers.shape[1:])
    lists = [edge.tolist() for edge in edges]

    def look_up(flowers: Array) -> Array:
        if len(flowers) == 1:  # bisect takes 3 µs where searchsorted takes 20
            return table[(*map(bisect, lists, flowers[0].tolist()), None)]
        pairs = zip(edges, flowers.T, strict=True)
        return table[tuple(edge.searchsorted(lengths, "right") for edge, lengths in pairs)]

    return look_up


tabulated = partial(tabulate, load(Path(__file__).parent / "model"))
classes = tabulated(lambda probabilities: probabilities.argmax(axis=-1))


def predict(input: ArrayLike) -> int:
    """Return the class of one flower: 0, 1 or 2, the index of its name in SPECIES.

    `input` has the shape (4,) or (1, 4): sepal length, sepal width, petal length and petal width,
    in cm, of any dtype that NumPy casts to float32. Raises ValueError for more than one flower,
    another shape, or a length that is not finite.
    """
    flower = np.asarray(input, np.float32)  # rounded as XGBoost does
    if flower.shape not in ((n := N_FEATURES,), (1, n)):
        raise ValueError(f"one flower has the shape ({n},) or (1, {n}), not {flower.shape}")
    if not all(map(math.isfinite, flower.flat)):
        raise ValueError(f"a flower's lengths are finite float32 numbers, not {flower}")
    return int(classes(flower.reshape(1, n))[0])

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
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import ArrayLike, NDArray

SPECIES = ("setosa", "versicolor", "virginica")  # by class: 0, 1, 2
N_FEATURES = 4  # sepal length, sepal width, petal length, petal width, in cm
MAX_CELLS = 100_000  # of a table: iris has 1,960. 100,000 encoded answers take 20 MB
MAX_EVALUATIONS = 25_000_000  # cells times trees: XGBoost evaluates 25 million in half a second
PICKLED_NAMES = {"xgboost.sklearn.XGBClassifier", "xgboost.core.Booster", "builtins.bytearray"}
RETRAIN = "Retrain it: python model/train.py"

Array = NDArray[Any]
ArrayFunction = Callable[[Array], Array]


def predict(input: ArrayLike) -> int:
    """Return the class of one flower: 0, 1 or 2, the index of its name in SPECIES.

    `input` has the shape (4,) or (1, 4): sepal length, sepal width, petal length and petal width,
    in cm, of any dtype that NumPy casts to float32. Raises ValueError for more than one flower,
    another shape, or a length that is not finite: NaN would get the last cell's answer.
    """
    flower = np.asarray(input, np.float32)  # rounded as XGBoost does
    if flower.shape not in ((N_FEATURES,), (1, N_FEATURES)):
        raise ValueError(
            f"one flower has the shape ({N_FEATURES},) or (1, {N_FEATURES}), not {flower.shape}"
        )
    if not all(map(math.isfinite, flower.flat)):  # for four numbers, faster than NumPy's
        raise ValueError(f"a flower's lengths are finite float32 numbers, not {flower}")
    return int(classes(flower.reshape(1, N_FEATURES))[0])  # a function, made in the last line


def tabulate(
    booster: xgboost.Booster, convert: ArrayFunction, max_cells: int = MAX_CELLS
) -> ArrayFunction:
    """Return a function of flowers, finite float32 of shape (n, features), that has a table.

    `convert` makes the answers, shape (n, ...), of probabilities, shape (n, classes). It is called
    now and once, for one flower in each cell of the grid that the trees' thresholds make. A tree
    ensemble is constant within a cell, so that flower's answer is every flower's in it, to the
    bit. Where the cells are too many there is no table: XGBoost is asked, and `convert` called,
    each time.
    """

    def ask(flowers: Array) -> Array:
        one_more = np.pad(flowers, ((0, 1), (0, 0)))  # XGBoost refuses an empty array
        return convert(booster.inplace_predict(one_more)[:-1])

    edges, trees = thresholds(booster)
    shape = [len(edge) + 1 for edge in edges]
    cells = math.prod(shape)
    if cells > max_cells or cells * trees > MAX_EVALUATIONS:
        return ask

    # A cell begins at its threshold: XGBoost goes left where length < threshold. The first cell of
    # a feature has none and begins at the smallest number.
    starts = [np.insert(edge, 0, np.finfo(np.float32).min) for edge in edges]
    grid = np.meshgrid(*starts, indexing="ij")  # for each feature, its length in every cell
    # Cells are numbered as NumPy numbers elements: the next one differs in the last feature.
    answers = ask(np.stack(grid, axis=-1).reshape(cells, len(edges)))
    edge_lists = [edge.tolist() for edge in edges]

    def look_up(flowers: Array) -> Array:
        if len(flowers) == 1:
            cell = cell_of(flowers[0])
            return answers[cell : cell + 1]
        indices = [
            edge.searchsorted(lengths, side="right")
            for edge, lengths in zip(edges, flowers.T, strict=True)
        ]
        return answers[np.ravel_multi_index(indices, shape)]

    def cell_of(flower: Array) -> int:
        """Return one flower's cell as above, but in 3 µs: searchsorted takes 20."""
        cell = 0
        for edge, size, length in zip(edge_lists, shape, flower.tolist(), strict=True):
            cell = cell * size + bisect(edge, length)
        return cell

    return look_up


@cache  # as run.py calls `tabulate` for the same booster
def thresholds(booster: xgboost.Booster) -> tuple[list[NDArray[np.float32]], int]:
    """Return each feature's split thresholds (cm), ascending, and the number of trees.

    XGBoost's JSON has a tree's nodes as parallel lists. A leaf's left child is -1.
    """
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    found: list[set[float]] = [set() for _ in range(booster.num_features())]
    for tree in trees:
        nodes = zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        )
        for left_child, feature, threshold in nodes:
            if left_child != -1:
                found[feature].add(threshold)
    return [np.array(sorted(of_feature), np.float32) for of_feature in found], len(trees)


class ModelError(Exception):
    """The model file cannot be served, so the import fails."""


def load(folder: Path) -> xgboost.Booster:
    """Return the booster of the one XGBClassifier in a folder, set to one thread.

    The folder has `<name>.pgz`, a gzipped pickle, and `<name>.pgz.sha256`, its SHA-256 digest.
    Raises ModelError if it is damaged, from another minor version of XGBoost, or of another kind
    than gbtree trees that answer N_FEATURES lengths with the probabilities of SPECIES.
    """
    paths = list(folder.glob("*.pgz"))
    if len(paths) != 1:
        raise ModelError(f"{folder} has {len(paths)} files *.pgz and has to have one. {RETRAIN}")
    path = paths[0]
    pickled = read_undamaged(path)
    check_version(path, pickled)
    classifier = unpickle(path, pickled)
    check_sizes(path, classifier)
    booster = classifier.get_booster()
    # libgomp's threads do not survive the fork of gunicorn's workers: with more than one, a
    # prediction would hang there.
    booster.set_param({"nthread": 1})
    check_kind(path, booster)
    return booster


def read_undamaged(path: Path) -> bytes:
    """Return the pickle in a gzipped file; raise ModelError unless the file has its digest.

    The digest is compared before anything is decompressed: a damaged pickle can crash or hang the
    interpreter.
    """
    try:
        packed = path.read_bytes()
        digest = path.with_name(f"{path.name}.sha256").read_bytes()[:64]  # the file's name follows
    except OSError as error:
        raise ModelError(f"{error.filename} is not readable. {RETRAIN}") from error
    if hashlib.sha256(packed).hexdigest().encode() != digest:
        raise ModelError(f"{path} is damaged: {path.name}.sha256 has another digest. {RETRAIN}")
    return gzip.decompress(packed)


def check_version(path: Path, pickled: bytes) -> None:
    """Raise ModelError if another minor version of XGBoost wrote the pickle.

    Such a pickle may fail to load, or answer differently; a patch changes neither. The version
    stands in it as UBJSON: an array ([#), its length 3 in eight bytes (L), and three int8 (i).
    """
    found = re.search(rb"version\[#L\x00{7}\x03i(.)i(.)i(.)", pickled, re.DOTALL)
    if found is None:
        return  # no booster is in it: the checks that follow say what it is
    major, minor, patch = (ord(number) for number in found.groups())
    if [str(major), str(minor)] != xgboost.__version__.split(".")[:2]:
        raise ModelError(
            f"{path} was written by XGBoost {major}.{minor}.{patch}, "
            f"but {xgboost.__version__} is installed. {RETRAIN}"
        )


def unpickle(path: Path, pickled: bytes) -> xgboost.XGBClassifier:
    """Return the pickled XGBClassifier; raise ModelError for anything else.

    A pickle can name any function to be called. This one may name only what an XGBClassifier has.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in PICKLED_NAMES:
                raise ModelError(
                    f"{path} asks for {module}.{name}: only an XGBClassifier is served here, "
                    f"which asks for {', '.join(sorted(PICKLED_NAMES))}. {RETRAIN}"
                )
            return super().find_class(module, name)

    # Loading starts threads, too, before `load` can set their number.
    with xgboost.config_context(nthread=1):
        classifier = Unpickler(io.BytesIO(pickled)).load()
    if not isinstance(classifier, xgboost.XGBClassifier):
        kind = type(classifier).__name__
        raise ModelError(f"{path} holds a {kind}: only an XGBClassifier is served here.")
    return classifier


def check_sizes(path: Path, classifier: xgboost.XGBClassifier) -> None:
    """Raise ModelError unless the classifier's features and classes are as many as ours."""
    features, n_classes = classifier.n_features_in_, classifier.n_classes_
    if (features, n_classes) != (N_FEATURES, len(SPECIES)):
        raise ModelError(
            f"{path} has {features} features and {n_classes} classes, not {N_FEATURES} and "
            f"{len(SPECIES)}: change model/train.py, or N_FEATURES, SPECIES and run.py's Flower."
        )


def check_kind(path: Path, booster: xgboost.Booster) -> None:
    """Raise ModelError unless the model has gbtree trees and answers with each class's probability.

    `thresholds` finds such trees only: dart's stand elsewhere, and gblinear has none.
    """
    kind = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
    if kind != "gbtree":
        raise ModelError(f"{path} is a {kind} model: train with booster='gbtree', the default.")
    probabilities = booster.inplace_predict(np.zeros((1, N_FEATURES), np.float32))
    if probabilities.shape != (1, len(SPECIES)):
        raise ModelError(
            f"{path} does not answer with a probability for each class: "
            "train with objective='multi:softprob', the default."
        )


def most_probable(probabilities: Array) -> Array:
    """Return the class of each flower, shape (n,), from its probabilities, shape (n, classes)."""
    return probabilities.argmax(axis=-1)


booster = load(Path(__file__).parent / "model")
classes = tabulate(booster, most_probable)

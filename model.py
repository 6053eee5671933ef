"""The trained classifier, loaded once at import, and its predictions."""

import ctypes
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
from typing import Any, get_args, get_type_hints

import numpy as np
import xgboost
from numpy.typing import ArrayLike, NDArray

from schema import CLASSES, DATA, Sample

# A gzipped pickle of an XGBClassifier.
PATH = Path(__file__).parent / "model" / f"xgboost-{Path(DATA).stem}.pgz"
FEATURES = list(Sample.__struct_encode_fields__)  # their names in JSON
N_FEATURES = len(FEATURES)
# For each feature, whether it may be missing: whether schema.py declares it as `float | None`.
OPTIONAL = [type(None) in get_args(hint) for hint in get_type_hints(Sample).values()]

# Limits of the lookup table (see `tabulate`): its cells times classes, which take 20 MB as JSON,
# and its cells times trees, which XGBoost evaluates in 0.5 s.
MAX_VALUES = 300_000
MAX_EVALUATIONS = 25_000_000
ALLOWED_GLOBALS = {"xgboost.sklearn.XGBClassifier", "xgboost.core.Booster", "builtins.bytearray"}
CURE = "Publish the model again: python model/train.py, or python model/publish.py FILE"

PREDICT_CONFIG = (  # for XGBoosterPredictFromDense: all trees, probabilities, two dimensions
    b'{"type":0,"training":false,"iteration_begin":0,"iteration_end":0,"strict_shape":true,'
    b'"cache_id":0,"missing":NaN}'
)

Array = NDArray[Any]
ArrayFunction = Callable[[Array], Array]


def predict(input: ArrayLike) -> int:
    """Return the class of one sample, which is the index of its name in schema.CLASSES.

    `input` has the shape (n_features,) or (1, n_features), in schema.Sample's order and units, of
    any dtype that NumPy casts to float32; for iris: sepal length, sepal width, petal length and
    petal width in cm. An optional feature may be NaN or None. Raises ValueError for any other
    shape, such as that of two samples, or any other value that is not finite.
    """
    sample = np.asarray(input, np.float32)  # rounds as XGBoost does
    one, array_of_one = (N_FEATURES,), (1, N_FEATURES)
    if sample.shape not in (one, array_of_one):
        raise ValueError(f"Expected shape {one} or {array_of_one}, got {sample.shape}.")
    # math.isfinite first: for four numbers, it is faster than NumPy.
    if not all(map(math.isfinite, sample.flat)):
        missing = np.isnan(sample)
        if np.isinf(sample).any() or missing[..., np.invert(OPTIONAL)].any():
            raise ValueError(f"Expected finite float32 numbers, got {sample}.")
    return int(predict_classes(sample.reshape(1, N_FEATURES))[0])


def tabulate(
    booster: xgboost.Booster, convert: ArrayFunction, max_values: int = MAX_VALUES
) -> ArrayFunction:
    """Return a function that maps samples to `convert` of their probabilities.

    The returned function takes float32 samples, shape (n_samples, n_features), and `convert` takes
    float32 probabilities, shape (n_samples, n_classes); both return an array of n_samples results.
    A tree ensemble is constant within each cell of the grid that its split thresholds form. So the
    results for one sample per cell are computed here, once, and the returned function looks them
    up: they equal XGBoost's bit for bit. If the table would be larger than `max_values` (cells
    times classes) or take too long to build, the returned function calls XGBoost and `convert`.
    """

    def compute(samples: Array) -> Array:
        return convert(predict_proba(booster, samples))

    if not fits_table(booster, max_values):
        return compute
    edges_by_feature = find_edges(booster)
    shape = [len(edges) + 1 for edges in edges_by_feature.values()]

    # One sample per cell. Each feature's lower bounds lie along an axis of their own, and are
    # broadcast over the others. An optional feature's last edge is infinity. No sample is infinite,
    # so the interval that begins there contains only NaN (see find_edges).
    cells = np.zeros((*shape, N_FEATURES), np.float32)
    for axis, (feature, edges) in enumerate(edges_by_feature.items()):
        lower_bounds = np.insert(edges, 0, np.finfo(np.float32).min)
        lower_bounds[lower_bounds == np.inf] = np.nan
        later_axes = [1] * (len(shape) - axis - 1)
        cells[..., feature] = lower_bounds.reshape(-1, *later_axes)
    results = compute(cells.reshape(-1, N_FEATURES))
    edge_lists = [(feature, edges.tolist()) for feature, edges in edges_by_feature.items()]

    def look_up(samples: Array) -> Array:
        if len(samples) == 1:  # this takes 3 µs, and searchsorted 20
            sample, cell = samples[0].tolist(), 0
            for feature, edge_list in edge_lists:
                cell = cell * (len(edge_list) + 1) + bisect(edge_list, sample[feature])
            return results[cell : cell + 1]
        found = np.zeros(len(samples), np.intp)
        for feature, edges in edges_by_feature.items():
            found *= len(edges) + 1
            found += edges.searchsorted(samples[:, feature], side="right")
        return results[found]

    return look_up


def fits_table(booster: xgboost.Booster, max_values: int = MAX_VALUES) -> bool:
    """Return whether a table of a model's results is small enough, and quick enough to build."""
    n_cells = math.prod(len(edges) + 1 for edges in find_edges(booster).values())
    _, n_trees = read_splits(booster)
    return n_cells * len(CLASSES) <= max_values and n_cells * n_trees <= MAX_EVALUATIONS


@cache  # callers do not change the result
def find_edges(booster: xgboost.Booster) -> dict[int, NDArray[np.float32]]:
    """Return, for each feature that a tree splits on, the values at which its intervals begin.

    These edges are its thresholds, ascending. A tree goes left if value < threshold, so an interval
    includes the threshold at which it begins. An optional feature also has infinity as an edge:
    NaN < edge is never true, so NaN comes after the last edge, in an interval of its own.
    """
    splits, _ = read_splits(booster)
    edges_by_feature: dict[int, set[float]] = {}
    for feature, threshold in splits:
        edges = edges_by_feature.setdefault(feature, {math.inf} if OPTIONAL[feature] else set())
        edges.add(threshold)
    return {
        feature: np.array(sorted(edges), np.float32)
        for feature, edges in sorted(edges_by_feature.items())
    }


@cache
def read_splits(booster: xgboost.Booster) -> tuple[list[tuple[int, float]], int]:
    """Return the feature and the threshold of each split, and the number of trees.

    XGBoost's JSON stores the nodes of a tree as parallel lists. The left child of a leaf is -1.
    """
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    columns = ("left_children", "split_indices", "split_conditions")
    nodes = [node for tree in trees for node in zip(*map(tree.get, columns), strict=True)]
    splits = [(feature, threshold) for left_child, feature, threshold in nodes if left_child != -1]
    return splits, len(trees)


def predict_proba(booster: xgboost.Booster, samples: Array) -> NDArray[np.float32]:
    """Return the probabilities of samples, shape (n_samples, n_classes).

    They equal XGBClassifier.predict_proba's bit for bit, even for two classes, for which a booster
    by itself returns only the probability of the second one.
    """
    if len(samples) == 0:  # XGBoost rejects an empty array
        return np.empty((0, len(CLASSES)), np.float32)
    probabilities = run_xgboost(booster, np.ascontiguousarray(samples))
    if probabilities.shape[1] == 1:
        return np.hstack([1 - probabilities, probabilities])
    return probabilities


def run_xgboost(booster: xgboost.Booster, samples: Array) -> NDArray[np.float32]:
    """Return what `booster.inplace_predict` would, for contiguous float32 samples, in 2 dimensions.

    This calls the same thread-safe function of XGBoost's C API without the Python wrapper's 100 µs.
    """
    data = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (
        samples.ctypes.data,
        *samples.shape,
    )
    shape = ctypes.POINTER(ctypes.c_uint64)()
    n_dimensions = ctypes.c_uint64()
    result = ctypes.POINTER(ctypes.c_float)()
    outputs = [ctypes.byref(output) for output in (shape, n_dimensions, result)]
    predict_from_dense = xgboost.core._LIB.XGBoosterPredictFromDense
    xgboost.core._check_call(
        predict_from_dense(booster.handle, data, PREDICT_CONFIG, None, *outputs)
    )
    # XGBoost reuses this memory in the thread's next call, so copy it.
    return np.ctypeslib.as_array(result, (shape[0], shape[1])).copy()


class ModelError(SystemExit):
    """The model cannot be served, so the import fails."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. {CURE}")


def load(path: Path) -> xgboost.Booster:
    """Return the model in a file that model/publish.py wrote, set to one thread.

    Raises ModelError if the file is corrupted or unreadable, if a different minor version of
    XGBoost wrote it, or if it was published for other features or classes than those of schema.py.
    """
    compressed = read_verified(path)
    try:
        pickled = gzip.decompress(compressed)
        check_version(path, pickled)  # its ModelError, a SystemExit, is not caught below
        with xgboost.config_context(nthread=1):  # otherwise, loading starts threads
            booster = Unpickler(io.BytesIO(pickled)).load().get_booster()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        problem = f"{path} must be a gzipped pickle of an XGBClassifier ({reason})"
        raise ModelError(problem) from error
    # libgomp's threads do not survive the fork of gunicorn's workers: with more than one, a
    # prediction would hang there.
    booster.set_param({"nthread": 1})
    for what, found, expected in (
        ("features", booster.feature_names, FEATURES),
        ("classes", booster.attr("classes"), json.dumps(CLASSES)),
    ):
        if found != expected:
            raise ModelError(
                f"{path} was published for the {what} {found}, but schema.py has {expected}"
            )
    return booster


def read_verified(path: Path) -> bytes:
    """Return a file's content; raise ModelError unless it matches its SHA-256 digest.

    A corrupted pickle can crash or hang the interpreter, so this comes before anything else.
    """
    try:
        content = path.read_bytes()
        expected = Path(f"{path}.sha256").read_bytes()[:64]  # the file's name follows
    except OSError as error:
        raise ModelError(f"{error.filename} is missing or unreadable") from error
    if hashlib.sha256(content).hexdigest().encode() != expected:
        raise ModelError(f"{path} is corrupted: it does not match the digest in {path.name}.sha256")
    return content


def check_version(path: Path, pickled: bytes) -> None:
    """Raise ModelError if a different minor version of XGBoost wrote the pickle.

    Such a pickle may fail to load, or predict differently. One from another patch release does
    neither. The version is an array in UBJSON: its length 3 in eight bytes (L), then three int8
    (i). A pickle without a version contains no booster, and fails to load.
    """
    found = re.search(rb"version\[#L\x00{7}\x03i(.)i(.)i(.)", pickled, re.DOTALL)
    if found is None:
        return
    version = ".".join(str(ord(number)) for number in found.groups())
    if version.split(".")[:2] != xgboost.__version__.split(".")[:2]:
        raise ModelError(
            f"{path} was written by XGBoost {version}, but {xgboost.__version__} is installed"
        )


class Unpickler(pickle.Unpickler):
    """Loads only ALLOWED_GLOBALS: otherwise, a pickle could call any function."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a model file")
        return super().find_class(module, name)


def choose_classes(probabilities: Array) -> Array:
    """Return the most probable class of each sample, shape (n_samples,)."""
    return probabilities.argmax(axis=-1)


@cache
def digest() -> str:
    """Return the SHA-256 digest of the model file, in hexadecimal."""
    return hashlib.sha256(PATH.read_bytes()).hexdigest()


def describe() -> str:
    """Return one line that identifies the model, for the log."""
    source = "a table" if fits_table(booster) else "XGBoost"
    return (
        f"Model: {PATH.name} {digest()[:12]}, XGBoost {xgboost.__version__}, "
        f"{N_FEATURES} features, {len(CLASSES)} classes, predictions from {source}"
    )


booster = load(PATH)
predict_classes = tabulate(booster, choose_classes)

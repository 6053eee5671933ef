"""Check a trained classifier, then write the model file and everything generated from it.

`python model/publish.py FILE` publishes a model that was trained elsewhere: XGBoost's .json or
.ubj, or a pickle (plain, gzip or xz) of an XGBClassifier, a fitted search or a Booster. A pickle
can run code: only publish one from a source you trust. model/train.py calls `publish` as well, so
every model that is served has passed these checks. If one fails, the error is one line, and no
file changes.
"""

import gzip
import hashlib
import importlib
import io
import json
import os
import pickle
import re
import shutil
import sys
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix
from xgboost import XGBClassifier

from draft_schema import read_csv

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for schema and validation, which write_docs imports as well
try:
    import schema
    import validation
    import write_docs
except Exception as error:  # msgspec's, for example, if two fields have the same name in JSON
    raise SystemExit(f"schema.py cannot be used: {error}.") from error

Array = NDArray[Any]

FIELDS = validation.FIELDS
NAMES = validation.NAMES
CLASSES = list(schema.CLASSES)
MODEL = f"model/xgboost-{Path(schema.DATA).stem}.pgz"
OBJECTIVES = ("multi:softprob", "binary:logistic")  # those whose predictions are probabilities
# The largest share of a model's split thresholds that may lie outside their column's range in DATA.
# In models of iris with the columns in the right order, at most 5% do; in other orders, 7 to 81%.
MAX_SHARE_OUTSIDE = 0.06
# Predictions are compared for this many random combinations of values (or more, if there are many
# thresholds) and for the first rows of DATA, up to this many.
N_CHECKED = 10_000


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("Expected one argument, the model: python model/publish.py FILE")
    path = Path(sys.argv[1])
    publish(read_classifier(path), source=str(path))


def publish(classifier: Any, accuracy: str = "", source: str = "The classifier") -> None:
    """Check a fitted XGBClassifier, then write the model file and everything generated.

    `accuracy` is a line for the README; by default it is the accuracy on DATA. `source` is what
    messages call the classifier. Raises SystemExit if the service could not predict exactly what
    the classifier predicts, or if DATA and schema.py do not fit each other or the classifier.
    """
    samples, classes = read_data()
    examples = choose_examples(samples, classes)
    check_kind(classifier, source)
    has_names = check_names(classifier, source)
    booster = stamp(cut_to_best_iteration(classifier, source))
    predicted = predict_proba(classifier, source, samples).argmax(axis=1)
    accuracy = accuracy or describe_accuracy(classes, predicted)
    new_files = model_files(booster)
    with load_service(new_files) as service:
        splits, _ = service.model.read_splits(service.model.booster)
        check_ranges(splits, source, samples, has_names)
        check_predictions(service, classifier, source, samples)
        generated = write_docs.generate(
            service, classifier, examples, samples, classes, read_feature_columns(), accuracy
        )
    files: dict[str, bytes | None] = {**new_files, **generated}  # None: must not exist
    for name, content in files.items():
        if content is None:
            (ROOT / name).unlink(missing_ok=True)
        else:
            (ROOT / name).parent.mkdir(exist_ok=True)
            (ROOT / name).write_bytes(content)
    for path in ROOT.glob("model/xgboost-*.pgz*"):  # the previous model's name may differ
        if f"model/{path.name}" not in files:
            path.unlink()
    print(f"Published as {MODEL}. Restart the service.")
    print(accuracy)
    print_confusion(classes, predicted)


# ---- The data ------------------------------------------------------------------------------


def normalize(name: str) -> str:
    """Return a name's letters and digits, in lower case.

    "petal length (cm)" and "petalLengthCm" are the same name, and so are "area (m²)" and "areaM2".
    Python applies NFKC to names in schema.py as well.
    """
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name))).lower()


@cache  # `read_data` and `read_feature_columns` both call it
def read_table() -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of DATA and its rows with their line numbers, as read_csv does."""
    return read_csv(ROOT / schema.DATA, schema.DATA)


@cache  # model/train.py and `publish` both call it
def read_data() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the samples of DATA and their classes.

    The samples have the shape (n_samples, n_features), in the order of schema.py, with NaN for an
    empty cell of an optional field; the classes are indices of CLASSES, shape (n_samples,). Raises
    SystemExit if DATA or schema.py is invalid, or if they do not fit each other.
    """
    if len(NAMES) < 2:  # the documentation shows an invalid field and a missing one
        raise SystemExit(f"schema.py: the sample must have two or more fields, not just {NAMES}.")
    are_names = all(isinstance(name, str) for name in CLASSES)
    if not are_names or len(CLASSES) < 2 or len(set(CLASSES)) < len(CLASSES):
        raise SystemExit(
            f"schema.py: CLASSES must be two or more different strings, not {CLASSES}."
        )
    header, rows = read_table()
    columns = find_columns(header)
    ignored = [name for column, name in enumerate(header) if column not in columns]
    if ignored:
        print(f"{schema.DATA}: ignoring the columns {ignored}.")
    samples = []
    classes = []
    for line, row in rows:
        if len(row) != len(header):
            raise SystemExit(
                f"{schema.DATA}, line {line}: expected {len(header)} cells, got {len(row)}."
            )
        *values, name = (row[column].strip() for column in columns)
        cells = zip(FIELDS, values, strict=True)
        samples.append([read_cell(field, value, line) for field, value in cells])
        if name not in CLASSES:
            raise SystemExit(
                f"{schema.DATA}, line {line}, column '{schema.CLASS}': "
                f"expected one of {CLASSES}, got '{name}'."
            )
        classes.append(CLASSES.index(name))
    for index, name in enumerate(CLASSES):
        if classes.count(index) < 2:
            raise SystemExit(
                f"{schema.DATA} must have at least two samples of each class, "
                f"not {classes.count(index)} of '{name}'."
            )
    array = np.array(samples)
    for name, is_empty in zip(NAMES, np.isnan(array).all(axis=0), strict=True):
        if is_empty:
            raise SystemExit(f"{schema.DATA}: column '{name}' must have at least one value.")
    return array, np.array(classes)


def read_feature_columns() -> list[str]:
    """Return the features' columns in DATA, in the order of schema.py."""
    header, _ = read_table()
    return [header[column] for column in find_columns(header)[:-1]]


def find_columns(header: list[str]) -> list[int]:
    """Return the positions of the features' columns, then of the class column."""
    expected = [*NAMES, schema.CLASS]
    keys = [normalize(name) for name in expected]
    normalized = [normalize(name) for name in header]
    if not any(normalized):
        raise SystemExit(f"{schema.DATA} is empty: expected a header with the columns {expected}.")
    for name, key in zip(expected, keys, strict=True):
        if keys.count(key) > 1:
            raise SystemExit(
                f"schema.py: '{name}' must differ from all other names in more than case and "
                "punctuation."
            )
        count = normalized.count(key)
        if count != 1:
            raise SystemExit(
                f"{schema.DATA} must have exactly one column named '{name}', not {count}. "
                f"Its columns are {header}."
            )
    return [normalized.index(key) for key in keys]


def read_cell(field: validation.Field, text: str, line: int) -> float:
    """Return a cell's number, or NaN for an empty one; raise SystemExit unless it is allowed."""
    if not text and field.is_optional:
        return np.nan
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if field.minimum <= value <= field.maximum and (not field.is_integer or value.is_integer()):
        return value
    expected = field._replace(is_optional=False).expectation()  # without "or null"
    if field.is_optional:
        expected += " or an empty cell"
    received = f"got '{text}'" if text else "but the cell is empty"
    raise SystemExit(
        f"{schema.DATA}, line {line}, column '{field.name}': expected {expected}, {received}."
    )


def choose_examples(samples: Array, classes: Array) -> Array:
    """Return the two samples that all documentation shows, shape (2, n_features)."""
    if schema.EXAMPLES is None:
        largest = np.argsort(-np.bincount(classes), kind="stable")[:2]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column may be empty in a class
            medians = [np.nanmedian(samples[classes == index], axis=0) for index in largest]
        return move_into_limits(np.array(medians))
    if not schema.PUBLISH_DATA:
        raise SystemExit("schema.py: EXAMPLES must be None, because PUBLISH_DATA is False.")
    if len(schema.EXAMPLES) != 2 or not set(schema.EXAMPLES) <= set(range(len(samples))):
        raise SystemExit(
            f"schema.py: EXAMPLES must be two row numbers from 0 to {len(samples) - 1}, "
            f"not {schema.EXAMPLES}."
        )
    first, second = schema.EXAMPLES
    if classes[first] == classes[second]:
        raise SystemExit(
            f"schema.py: EXAMPLES must be of different classes, "
            f"but {schema.EXAMPLES} are both '{CLASSES[classes[first]]}'."
        )
    return samples[[first, second]]


def move_into_limits(samples: Array) -> NDArray[np.float64]:
    """Return samples with each value moved to the nearest one that its field allows."""
    allowed = samples.astype(np.float64)
    for column, field in enumerate(FIELDS):
        values = allowed[:, column]
        if field.is_integer:
            np.rint(values, out=values)
        np.clip(values, *write_docs.allowed_limits(field), out=values)
    return allowed


# ---- The classifier ------------------------------------------------------------------------


SAVE_AGAIN = (
    "Save an XGBClassifier with classifier.save_model('model.json'), using the version of XGBoost "
    "that trained it, and publish model.json."
)


def read_classifier(path: Path) -> Any:
    """Return the object in a file; `publish` rejects it if it is not a classifier.

    A Booster, or a file in one of XGBoost's own formats, is loaded with XGBClassifier.load_model:
    the classifier predicts with the trees up to the best iteration, and only NaN counts as missing.
    Raises SystemExit if the file cannot be loaded.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SystemExit(f"{path} cannot be read: {error.strerror}.") from error
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if content.startswith(b"{"):  # .json or .ubj
                if not content.rstrip().endswith(b"}"):  # XGBoost could crash on it
                    raise ValueError("the end of the file is missing")
                return load_as_classifier(bytearray(content))
            loaded = joblib.load(io.BytesIO(content))
    except Exception as error:
        raise SystemExit(
            f"{path} cannot be loaded ({summarize(error)}): it is damaged or in an unsupported "
            f"format, or needs a module that is not installed. {SAVE_AGAIN}"
        ) from error
    for warning in caught:
        # XGBoost says this of a newer version's pickle as well.
        if "older version of XGBoost" in str(warning.message):
            raise SystemExit(f"{path} was pickled by another version of XGBoost. {SAVE_AGAIN}")
    loaded = getattr(loaded, "best_estimator_", loaded)  # of a fitted search
    if isinstance(loaded, xgboost.Booster):
        return load_as_classifier(loaded.save_raw("ubj"))
    return loaded


def load_as_classifier(content: bytearray) -> XGBClassifier:
    classifier = XGBClassifier()
    classifier.load_model(content)
    print(
        "Only NaN counts as missing. If you set `missing` in training, predictions may differ: "
        "publish the classifier's pickle to check this. Other formats do not store the value."
    )
    return classifier


def summarize(error: Exception) -> str:
    """Return an error's type and its message's first line, without XGBoost's source location."""
    line = str(error).strip().partition("\n")[0]
    reason = re.sub(r"^\[[\d:]+\] \S+:\d+: (Check failed: .*? : )?", "", line)
    return f"{type(error).__name__}: {reason:.200}".rstrip(" :.")


def check_kind(classifier: Any, source: str) -> None:
    """Raise SystemExit unless this is a kind of classifier that the service can predict with.

    Its booster is set to the CPU, because a GPU's probabilities differ in their last bits. This
    does not use XGBClassifier.set_params, which would also write its other parameters into the
    booster, and so into the model file.
    """
    if not isinstance(classifier, XGBClassifier):
        raise SystemExit(
            f"{source} must be an XGBClassifier, a fitted search that wraps one, or a Booster, not "
            f"{type(classifier).__name__}. Save the XGBClassifier itself, trained directly on the "
            "columns listed in schema.py."
        )
    if not classifier.__sklearn_is_fitted__():
        raise SystemExit(f"{source} is not fitted. Call fit() before you save it.")
    booster = classifier.get_booster()
    booster.set_param({"device": "cpu"})
    learner = json.loads(booster.save_raw("json"))["learner"]
    kind = learner["gradient_booster"]["name"]
    if kind != "gbtree":
        raise SystemExit(
            f"{source} must use the gbtree booster, not {kind}. Train without setting booster."
        )
    objective = learner["objective"]["name"]
    if objective not in OBJECTIVES:
        raise SystemExit(
            f"{source} must use the {' or '.join(OBJECTIVES)} objective, not {objective}. "
            "Train an XGBClassifier without setting objective."
        )
    parameters = learner["learner_model_param"]
    if parameters["num_target"] != "1":
        raise SystemExit(
            f"{source} must predict one label, not {parameters['num_target']}. "
            "Train on one class per sample."
        )
    trees = learner["gradient_booster"]["model"]["trees"]
    has_categories = any(1 in tree["split_type"] for tree in trees)
    if has_categories or "c" in (booster.feature_types or []):
        raise SystemExit(
            f"{source} has categorical features. Train with one 0/1 column per category instead."
        )
    n_classes = max(2, int(parameters["num_class"]))  # it is 0 for two classes
    if n_classes != len(CLASSES):
        raise SystemExit(
            f"{source} must have the {len(CLASSES)} classes in schema.py, {CLASSES}, not "
            f"{n_classes} classes. Change schema.py, or train with its classes."
        )


def check_names(classifier: XGBClassifier, source: str) -> bool:
    """Return whether the classifier knows its features' names.

    Raises SystemExit if its features are not those of schema.py. Numbered names, such as 0 or
    f0, come from a DataFrame or an array without column names, and do not count.
    """
    booster = classifier.get_booster()
    names = booster.feature_names or []
    if all(re.fullmatch(r"f?\d+", name) for name in names):
        if booster.num_features() != len(NAMES):
            raise SystemExit(
                f"{source} must have the {len(NAMES)} features in schema.py, {NAMES}, not "
                f"{booster.num_features()} features. Change schema.py, or train with its features."
            )
        return False
    fields = list(schema.Sample.__struct_fields__)
    field_by_name = dict(zip(map(normalize, NAMES), fields, strict=True))
    wanted = [field_by_name.get(normalize(name), name) for name in names]
    for number, (name, field) in enumerate(zip_longest(wanted, fields), 1):
        if name != field:
            raise SystemExit(
                f"{source} was trained on the columns {names}. The fields of schema.py must be "
                f"{wanted}, in this order, not {fields}: field {number} is the first to differ."
            )
    return True


def cut_to_best_iteration(classifier: XGBClassifier, source: str) -> xgboost.Booster:
    """Return the part of the booster that the classifier predicts with after early stopping.

    A booster by itself predicts with all of its trees. Raises SystemExit if the best iteration is
    not one of its rounds.
    """
    booster = classifier.get_booster()
    n_rounds = booster.num_boosted_rounds()
    best_iteration = booster.attr("best_iteration") or str(n_rounds - 1)
    if best_iteration not in map(str, range(n_rounds)):
        raise SystemExit(
            f"{source} has {n_rounds} boosting rounds, but its best iteration is "
            f"{best_iteration}. Train it again."
        )
    n_served = int(best_iteration) + 1
    if n_served == n_rounds:
        return booster
    print(f"Early stopping: only the first {n_served} of {n_rounds} boosting rounds are served.")
    return booster[:n_served]


def predict_proba(classifier: XGBClassifier, source: str, samples: Array) -> Array:
    """Return the classifier's own probabilities; raise SystemExit if it cannot predict."""
    try:
        probabilities = classifier.predict_proba(samples)
        if probabilities.shape != (len(samples), len(CLASSES)):
            raise ValueError(f"its probabilities have the shape {probabilities.shape}")
    except Exception as error:
        raise SystemExit(
            f"{source} cannot make predictions ({summarize(error)}). Train an XGBClassifier, and "
            "save it right after fit()."
        ) from error
    return probabilities


def check_ranges(
    splits: list[tuple[int, float]], source: str, samples: Array, has_names: bool
) -> None:
    """Raise SystemExit if too many thresholds of a model lie outside their column's range in DATA.

    They do if the model was trained on columns in a different order or in different units. This is
    only a warning if the model has feature names, because its order is then known to be right.
    """
    low, high = np.nanmin(samples, axis=0), np.nanmax(samples, axis=0)
    # A threshold above all values separates them from missing ones.
    high[[field.is_optional for field in FIELDS]] = np.inf
    outside = [not low[feature] <= threshold <= high[feature] for feature, threshold in splits]
    if sum(outside) <= MAX_SHARE_OUTSIDE * len(splits):
        return
    problem = (
        f"{sum(outside)} of the {len(splits)} thresholds of {source} lie outside the range of "
        f"their column in {schema.DATA}"
    )
    if has_names:
        print(
            f"Warning: {problem}. Was it trained on data in different units, or on scaled values?"
        )
        return
    raise SystemExit(
        f"{problem}, and the model has no feature names: it was probably trained on columns in "
        f"a different order or in different units than {NAMES}. Reorder the fields in schema.py "
        "to match the model's columns; clients are not affected. If the order and the units are "
        f"right, set classifier.get_booster().feature_names = {NAMES}, save the classifier and "
        "publish it again."
    )


# ---- What is written -----------------------------------------------------------------------


def stamp(booster: xgboost.Booster) -> xgboost.Booster:
    """Return a copy of a booster with our features' and classes' names and no other metadata."""
    stamped = xgboost.Booster()
    stamped.load_model(booster.save_raw("ubj"))
    for name in stamped.attributes():
        stamped.set_attr(**{name: None})
    stamped.feature_types = None
    stamped.feature_names = NAMES
    stamped.set_attr(classes=json.dumps(CLASSES))
    return stamped


def model_files(booster: xgboost.Booster) -> dict[str, bytes]:
    """Return the content of the model file, of its digest and of model-info.json, by path.

    model-info.json contains only what the service checks at startup; write_docs adds the rest.
    """
    classifier = XGBClassifier()
    classifier.load_model(booster.save_raw("ubj"))
    compressed = io.BytesIO()
    # Reproducible: no file name or time, and a fixed level and protocol, not Python's defaults.
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=compressed, mtime=0) as file:
        pickle.dump(classifier, file, protocol=4)
    digest = hashlib.sha256(compressed.getvalue()).hexdigest()
    identity = {"sha256": digest, "schema": validation.digest_schema()}
    return {
        MODEL: compressed.getvalue(),
        f"{MODEL}.sha256": f"{digest}  {Path(MODEL).name}\n".encode(),
        "static/model-info.json": json.dumps({"model": identity}).encode(),
    }


@contextmanager
def load_service(files: dict[str, bytes]) -> Iterator[ModuleType]:
    """Import the module `run`, with the new model, from a temporary copy of the service.

    It is imported with the default settings, which the documentation describes: FLASK_ variables
    are removed for good.
    """
    for name in [name for name in os.environ if name.startswith("FLASK_")]:
        del os.environ[name]
    # Only these two depend on the model. When the tests call `publish`, both are imported already.
    replaced = {name: sys.modules.pop(name, None) for name in ("run", "model")}
    with tempfile.TemporaryDirectory() as folder:
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        sys.path.insert(0, folder)
        try:
            yield importlib.import_module("run")
        finally:
            sys.path.remove(folder)
            for name, module in replaced.items():
                sys.modules.pop(name, None)
                if module is not None:
                    sys.modules[name] = module


# ---- The check -----------------------------------------------------------------------------


def check_predictions(
    service: ModuleType, classifier: XGBClassifier, source: str, samples: Array
) -> None:
    """Raise SystemExit unless the service predicts what the classifier does, bit for bit.

    The samples combine values of each feature: its thresholds, their neighbors in float32, its
    limits, zero, NaN, values of DATA and random ones. They are moved to the nearest allowed values
    and compared through the app. Then, if `missing` is NaN, they are compared unchanged, through
    model.tabulate.
    """
    combined = combine(service.model, samples)
    allowed = move_into_limits(combined)
    compare(allowed, partial(post, service), classifier, source)
    # With another `missing`, results may rightly differ for values that no client can send.
    if np.isnan(classifier.missing):
        # The service's own table, except that it stores the probabilities themselves.
        look_up = service.model.tabulate(service.model.booster, lambda probabilities: probabilities)
        compare(combined, look_up, classifier, source)


def combine(model: ModuleType, samples: Array) -> NDArray[np.float32]:
    """Return samples in which each value of interest occurs, in random combinations."""
    random = np.random.default_rng(42)
    edges_by_feature = model.find_edges(model.booster)
    columns = []
    for column, field in enumerate(FIELDS):
        edges = edges_by_feature.get(column, np.empty(0, np.float32))
        edges = edges[np.isfinite(edges)]  # without the edge of missing values
        columns.append(
            np.concatenate(
                [
                    edges,
                    np.nextafter(edges, -np.float32(np.inf)),
                    np.nextafter(edges, np.float32(np.inf)),
                    [field.minimum, field.maximum, 0, *([np.nan] if field.is_optional else [])],
                    random.choice(samples[:, column], 200),
                    random.uniform(field.minimum, field.maximum, 50),
                ]
            ).astype(np.float32)
        )
    n_samples = max(N_CHECKED, 2 * max(map(len, columns)))  # each value at least twice
    shuffled = [random.permutation(np.resize(values, n_samples)) for values in columns]
    return np.vstack([np.stack(shuffled, axis=-1), samples[:N_CHECKED].astype(np.float32)])


def compare(
    samples: Array, predict: Callable[[Array], Array], classifier: XGBClassifier, source: str
) -> None:
    """Raise SystemExit, naming one sample, if the probabilities differ from the classifier's."""
    expected = predict_proba(classifier, source, samples.astype(np.float32))
    found = predict(samples)
    different = (expected != found).any(axis=1)
    if different.any():
        cause = "Was the classifier changed after fit()? Save it right after fit()"
        if not np.isnan(classifier.missing):
            cause = (
                f"It treats {classifier.missing} as missing, but the service treats only NaN as "
                "missing: train without setting missing"
            )
        index = different.argmax()
        raise SystemExit(
            f"{source} predicts {shorten(expected[index])} for {shorten(samples[index])}, but the "
            f"service would predict {shorten(found[index])}. {cause}."
        )


def shorten(values: Array) -> str:
    """Return float32 numbers with as few digits as they need."""
    return f"[{', '.join(map(str, values.astype(np.float32)))}]"


def post(service: ModuleType, samples: Array) -> Array:
    """Return the probabilities that the service predicts, through /predict_proba."""
    client = service.app.test_client()
    batch_size = write_docs.samples_per_body(service)
    probabilities: list[dict[str, float]] = []
    for start in range(0, len(samples), batch_size):
        batch = [write_docs.to_object(sample) for sample in samples[start : start + batch_size]]
        body = msgspec.json.encode(batch)
        with client.post("/predict_proba", data=body, headers=write_docs.JSON_HEADERS) as response:
            if response.status_code != 200:
                raise SystemExit(f"The service rejected valid samples: {response.text:.300}")
            probabilities += response.json["return"]
    rows = [list(row.values()) for row in probabilities]
    return np.array(rows, np.float32)


# ---- Accuracy ------------------------------------------------------------------------------


def describe_accuracy(classes: Array, predicted: Array) -> str:
    accuracy = (classes == predicted).mean()
    return f"accuracy on {schema.DATA}, which may include the model's training data: {accuracy:.3f}"


def print_confusion(classes: Array, predicted: Array) -> None:
    """Print the confusion matrix, and warn if another order of CLASSES would fit better."""
    matrix = confusion_matrix(classes, predicted, labels=range(len(CLASSES)))
    print(f"Confusion matrix on all of {schema.DATA}, which may include training data")
    print("(rows: class in the data, columns: predicted class):")
    width = max(map(len, CLASSES))
    for name, row in zip(CLASSES, matrix.tolist(), strict=True):
        print(f"  {name:{width}}", *(f"{count:6}" for count in row))
    _, label_by_class = linear_sum_assignment(-matrix)  # which label fits each class
    if matrix[range(len(CLASSES)), label_by_class].sum() > matrix.trace():
        class_by_label = label_by_class.argsort()  # the inverse permutation
        reordered = [CLASSES[index] for index in class_by_label]
        print(
            f"Warning: with CLASSES = {tuple(reordered)} in schema.py, more predictions would be "
            "right. If the model was trained with this order, change schema.py and publish the "
            "model again."
        )


if __name__ == "__main__":
    main()

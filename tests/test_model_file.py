"""Model files that another program, person or schema.py left: a one-line error at startup."""

import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xgboost

import model
import run
from tests.service import ROOT, WITHOUT_SCIKIT_LEARN
from tests.test_model import load_error, write

PICKLED = gzip.decompress(model.PATH.read_bytes())


def write_compressed(path: Path, compressed: bytes) -> Path:
    """Write a model file and the digest that matches it."""
    path.write_bytes(compressed)
    digest = hashlib.sha256(compressed).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return path


def zip_up(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.pkl", content)
    return file.getvalue()


def pickle_changed(change: Callable[[xgboost.Booster], object]) -> bytes:
    """Return a pickle of the service's classifier after a change of its booster."""
    classifier = pickle.loads(PICKLED)
    change(classifier.get_booster())
    return pickle.dumps(classifier)


def reverse_features(booster: xgboost.Booster) -> None:
    booster.feature_names = model.FEATURES[::-1]


REVERSED_CLASSES = json.dumps(model.CLASSES[::-1])

NOT_A_PICKLE = {
    "zip": (zip_up(PICKLED), "BadGzipFile: Not a gzipped file (b'PK')"),
    "xz": (lzma.compress(PICKLED), "BadGzipFile: Not a gzipped file (b'\\xfd7')"),
    "Git LFS pointer": (b"version https://git-lfs", "BadGzipFile: Not a gzipped file (b've')"),
    "plain pickle": (PICKLED, "BadGzipFile: Not a gzipped file (b'\\x80\\x04')"),
    "truncated gzip": (
        gzip.compress(PICKLED)[:-100],
        "EOFError: Compressed file ended before the end-of-stream marker was reached",
    ),
    "empty": (b"", "EOFError: Ran out of input"),
    "truncated pickle": (
        gzip.compress(PICKLED[:-1000]),
        "UnpicklingError: ",
    ),
    "booster": (
        gzip.compress(pickle.dumps(pickle.loads(PICKLED).get_booster())),
        "AttributeError: 'Booster' object has no attribute 'get_booster'",
    ),
    "other object": (
        gzip.compress(pickle.dumps(bytearray(10))),
        "AttributeError: 'bytearray' object has no attribute 'get_booster'",
    ),
    "damaged booster": (gzip.compress(PICKLED.replace(b"learner", b"lEARNER")), "XGBoostError: "),
}


@pytest.mark.parametrize(("compressed", "reason"), NOT_A_PICKLE.values(), ids=NOT_A_PICKLE)
def test_file_that_is_not_a_gzipped_pickle_is_rejected(
    tmp_path: Path, compressed: bytes, reason: str
) -> None:
    path = write_compressed(tmp_path / "model.pgz", compressed)
    message = load_error(path)
    assert message.startswith(f"{path} must be a gzipped pickle of an XGBClassifier ({reason}")
    assert message.endswith(f"). {model.CURE}")
    assert "\n" not in message


STAMPS: dict[str, tuple[Callable[[xgboost.Booster], object], str, Any, Any]] = {
    "no feature names": (
        lambda booster: setattr(booster, "feature_names", None),
        "features",
        model.FEATURES,
        None,
    ),
    "no class names": (
        lambda booster: booster.set_attr(classes=None),
        "classes",
        json.dumps(model.CLASSES),
        None,
    ),
    "features in another order": (
        reverse_features,
        "features",
        model.FEATURES,
        model.FEATURES[::-1],
    ),
    "classes in another order": (
        lambda booster: booster.set_attr(classes=REVERSED_CLASSES),
        "classes",
        json.dumps(model.CLASSES),
        REVERSED_CLASSES,
    ),
    "classes that are not JSON": (
        lambda booster: booster.set_attr(classes="a, b"),
        "classes",
        json.dumps(model.CLASSES),
        "a, b",
    ),
}


@pytest.mark.parametrize(("change", "what", "expected", "stamp"), STAMPS.values(), ids=STAMPS)
def test_model_that_was_published_for_another_schema_is_rejected(
    tmp_path: Path,
    change: Callable[[xgboost.Booster], object],
    what: str,
    expected: Any,
    stamp: Any,
) -> None:
    path = write(tmp_path / "model.pgz", pickle_changed(change))
    assert load_error(path) == (
        f"{path} was published for the {what} {stamp}, but schema.py has {expected}. {model.CURE}"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "is missing or unreadable"),
        ("", "is missing or unreadable"),
        ("[]", "is missing or unreadable"),
        ('{"model": {}}', "is missing or unreadable"),
        ('{"model": {"sha256": "0"}}', "is missing or unreadable"),
        (
            '{"model": {"sha256": "0", "schema": "0"}}',
            f"describes a different model than {model.PATH.name}",
        ),
    ],
    ids=["missing", "empty", "array", "no digest", "no digest of the schema", "another digest"],
)
def test_model_info_of_another_model_is_rejected(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "model-info.json"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(model.ModelError) as error:
        run.check_model_info(path)
    assert str(error.value) == f"{path} {problem}. {model.CURE}"


def test_model_of_an_earlier_schema_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model-info.json"
    path.write_text(json.dumps({"model": {"sha256": model.digest(), "schema": "0"}}), "utf-8")
    with pytest.raises(model.ModelError) as error:
        run.check_model_info(path)
    problem = "schema.py has changed since the model was published"
    assert str(error.value) == f"{problem}. {model.CURE}"


# ---- The commands --------------------------------------------------------------------------

REVERSE_FIELDS = """
from typing import get_type_hints

Sample = msgspec.defstruct(
    Sample.__name__,
    [
        (name, hint, msgspec.field(name=json_name))
        for (name, hint), json_name in zip(
            get_type_hints(Sample, include_extras=True).items(), Sample.__struct_encode_fields__
        )
    ][::-1],
)
"""
STARTUP: dict[str, tuple[Callable[[Path], object], str]] = {
    "fields in another order": (
        lambda copy: append(copy / "schema.py", REVERSE_FIELDS),
        f"was published for the features {model.FEATURES}, but schema.py has "
        f"{model.FEATURES[::-1]}",
    ),
    "classes in another order": (
        lambda copy: append(copy / "schema.py", "CLASSES = CLASSES[::-1]\n"),
        f"was published for the classes {json.dumps(model.CLASSES)}, but schema.py has "
        f"{REVERSED_CLASSES}",
    ),
    "other value in schema.py": (
        lambda copy: append(copy / "schema.py", 'TITLE = "Another title"\n'),
        "schema.py has changed since the model was published",
    ),
    "Git LFS pointer": (
        lambda copy: write_compressed(copy / "model" / model.PATH.name, b"version"),
        "must be a gzipped pickle of an XGBClassifier (BadGzipFile: Not a gzipped file (b've'))",
    ),
}


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the service needs."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "model").mkdir()
    for path in ROOT.glob("model/*.pgz*"):
        shutil.copy(path, tmp_path / "model")
    (tmp_path / "static").mkdir()
    shutil.copy(ROOT / "static" / "model-info.json", tmp_path / "static")
    return tmp_path


def start(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": WITHOUT_SCIKIT_LEARN}
    return subprocess.run(
        [sys.executable, "-B", *command],
        cwd=copy,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(("change", "problem"), STARTUP.values(), ids=STARTUP)
def test_service_does_not_start_and_prints_one_line(
    copy: Path, change: Callable[[Path], object], problem: str
) -> None:
    change(copy)
    ended = start(copy, "run.py")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr in (
        f"{copy / 'model' / model.PATH.name} {problem}. {model.CURE}\n",
        f"{problem}. {model.CURE}\n",
    )


def test_gunicorn_does_not_start_and_prints_one_line(copy: Path) -> None:
    change, problem = STARTUP["classes in another order"]
    change(copy)
    ended = start(copy, "-m", "gunicorn", "--bind=127.0.0.1:0", "run:app")
    assert ended.returncode != 0
    line = f"{copy / 'model' / model.PATH.name} {problem}. {model.CURE}"
    assert ended.stderr.rstrip().split("\n")[-1] == line
    assert "Traceback" not in ended.stderr

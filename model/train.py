"""Train the iris classifier and write what the service serves.

Writes `xgboost-iris.pgz` (a gzipped pickle) and its SHA-256 digest beside this file, and the 150
flowers to `../static/iris.json`. Every run writes the same bytes.

The data is Fisher's iris as scikit-learn ships it: four lengths in cm and one of three species.
"""

import gzip
import hashlib
import json
import pickle
import re
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

MODEL = Path(__file__).with_name("xgboost-iris.pgz")
FLOWERS = Path(__file__).parents[1] / "static" / "iris.json"

iris = load_iris()
train, test, train_species, test_species = train_test_split(
    iris.data, iris.target, test_size=0.3, random_state=42, stratify=iris.target
)
classifier = XGBClassifier(n_estimators=100, learning_rate=0.3).fit(train, train_species)
print(f"accuracy: train {classifier.score(train, train_species):.3f}", end=", ")
print(f"test {classifier.score(test, test_species):.3f}")

# GzipFile with no name and no time, and a fixed pickle protocol: the same bytes on every Python.
with MODEL.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
    pickle.dump(classifier, packed, protocol=4)
digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
MODEL.with_name(f"{MODEL.name}.sha256").write_bytes(f"{digest}  {MODEL.name}\n".encode())

# "sepal length (cm)" becomes "sepalLengthCm", the API's name: the file is a body for /predict.
words = [re.findall(r"\w+", name) for name in iris.feature_names]
names = [first + "".join(map(str.capitalize, rest)) for first, *rest in words]
flowers = [
    json.dumps(dict(zip(names, lengths, strict=True)) | {"species": iris.target_names[species]})
    for lengths, species in zip(iris.data.tolist(), iris.target, strict=True)
]
FLOWERS.write_bytes(("[\n" + ",\n".join(flowers) + "\n]\n").encode())

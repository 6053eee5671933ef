"""Train the iris classifier and write what the service serves: python model/train.py

Writes the gzipped pickle and its SHA-256 digest beside this file, and what derives from them: in
`../static/`, the flowers in `iris.json`, the model's thresholds in `thresholds.json`, and the
answers that `openapi.json` and `postman_collection.json` show, as `../README.md` does. Every run
writes the same bytes.

The data is Fisher's iris as scikit-learn ships it: four lengths in cm and one of three species.
"""

import gzip
import hashlib
import json
import pickle
import re
import sys
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

MODEL = Path(__file__).with_name("xgboost-iris.pgz")
ROOT = Path(__file__).parents[1]
STATIC = ROOT / "static"

iris = load_iris()
train, test, train_species, test_species = train_test_split(
    iris.data, iris.target, test_size=0.3, random_state=42, stratify=iris.target
)
classifier = XGBClassifier(n_estimators=100, learning_rate=0.3).fit(train, train_species)
accuracy = (
    f"accuracy: train {classifier.score(train, train_species):.3f}, "
    f"test {classifier.score(test, test_species):.3f}"
)
print(accuracy)

# GzipFile with no name and no time, and a fixed pickle protocol: the same bytes on every Python.
with MODEL.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
    pickle.dump(classifier, packed, protocol=4)
digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
MODEL.with_name(f"{MODEL.name}.sha256").write_bytes(f"{digest}  {MODEL.name}\n".encode())

sys.path.insert(0, str(ROOT))
import model  # noqa: E402  # which loads what has just been written, or says why it cannot
import run  # noqa: E402

# The fields of the API in the order of the data's columns: the file is a body for /predict.
flowers = [
    json.dumps(dict(zip(run.NAMES, lengths, strict=True)) | {"species": iris.target_names[species]})
    for lengths, species in zip(iris.data.tolist(), iris.target, strict=True)
]
(STATIC / "iris.json").write_bytes(("[\n" + ",\n".join(flowers) + "\n]\n").encode())

# The shortest decimals that are these float32, so that a client may compare them with its own.
edges, _ = model.thresholds(model.load(MODEL.parent))
thresholds = {
    name: list(map(float, map(str, of))) for name, of in zip(run.NAMES, edges, strict=True)
}
(STATIC / "thresholds.json").write_bytes(f"{json.dumps(thresholds)}\n".encode())

client = run.app.test_client()

openapi = json.loads((STATIC / "openapi.json").read_bytes())
for path in ("/predict", "/predict_proba"):
    operation = openapi["paths"][path]["post"]
    flower = operation["requestBody"]["content"]["application/json"]["example"]
    answer = client.post(path, json=flower)
    operation["responses"]["200"]["content"]["application/json"]["example"] = answer.json
(STATIC / "openapi.json").write_bytes(f"{json.dumps(openapi, indent=2)}\n".encode())

collection = json.loads((STATIC / "postman_collection.json").read_bytes())
for item in collection["item"]:
    asked = item["request"]
    answer = client.open(
        asked["url"]["raw"].removeprefix("{{baseUrl}}"),
        method=asked["method"],
        headers={header["key"]: header["value"] for header in asked["header"]},
        data=asked.get("body", {}).get("raw", "").replace("{{tooLong}}", " " * (2**20 + 1)),
    )
    (saved,) = item["response"]
    saved["code"], saved["body"] = answer.status_code, answer.text
(STATIC / "postman_collection.json").write_bytes(f"{json.dumps(collection, indent=2)}\n".encode())

readme = (ROOT / "README.md").read_text("utf-8")
readme = re.sub(r"accuracy: train .*, test [\d.]+", accuracy, readme)
probabilities = client.post("/predict_proba", json=flower).text
readme = re.sub(r'^\{"return":\{.*\}\}$', probabilities, readme, flags=re.MULTILINE)
(ROOT / "README.md").write_text(readme, "utf-8")

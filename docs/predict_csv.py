# Add a column with the class to a CSV whose columns are named as in the API.
import pandas as pd
import requests

url = "http://localhost:3000"
names = list(requests.get(f"{url}/static/example.json").json())
table = pd.read_csv("model/iris.csv")
samples = table[names]
classes = []
for start in range(0, len(samples), 12787):  # this many fit in a body
    batch = samples[start : start + 12787].to_dict("records")
    response = requests.post(f"{url}/predict", json=batch)
    response.raise_for_status()
    classes += response.json()["return"]
table["predicted"] = classes
table.to_csv("predicted.csv", index=False)

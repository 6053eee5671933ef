# Add a column with the predicted class to a CSV.
import pandas as pd
import requests

url = "http://localhost:3000"
info = requests.get(f"{url}/static/model-info.json").json()
names = [feature["name"] for feature in info["features"]]
table = pd.read_csv("model/iris.csv")
# In the order of the API's fields.
columns = ["sepalLengthCm", "sepalWidthCm", "petalLengthCm", "petalWidthCm"]
samples = table[columns].set_axis(names, axis=1)
predicted = []
for start in range(0, len(samples), 12787):  # this many fit in a body
    batch = samples[start : start + 12787].to_dict("records")
    response = requests.post(f"{url}/predict", json=batch)
    response.raise_for_status()
    predicted += [info["classes"][int(label)] for label in response.json()["return"]]
table["predicted"] = predicted
table.to_csv("predicted.csv", index=False)

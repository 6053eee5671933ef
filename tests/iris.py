"""What the tests expect of the model and its data: for another model, change this module.

Each value is written out, as none may be computed by the code that is tested. The tests of the
page have more of iris in them, as the page is for iris only.
"""

# A flower, its class and its probabilities. README, OpenAPI and Postman show this flower.
FLOWER = {"sepalLengthCm": 5.9, "sepalWidthCm": 3, "petalLengthCm": 5.1, "petalWidthCm": 1.8}
LABEL = "2"
PROBABILITIES = {"setosa": 0.000852, "versicolor": 0.003993, "virginica": 0.995155}

# A flower of another class.
OTHER = {"sepalLengthCm": 5.1, "sepalWidthCm": 3.5, "petalLengthCm": 1.4, "petalWidthCm": 0.2}
OTHER_LABEL = "0"
OTHER_PROBABILITIES = {"setosa": 0.993091, "versicolor": 0.005326, "virginica": 0.001583}

# The class of FLOWER with 0, the least and the greatest value in its last field.
LABELS_AT_LIMITS = {0: "2", 100: "2"}
# The values next to the limits that are refused, and what an error says before such a value.
TOO_SMALL = -0.1
TOO_GREAT = 100.1
EXPECTED = "expected a number from 0 to 100, in cm, got "
# As the greatest value, it would be enough for both flowers, but not for all of the data set.
TOO_LOW_A_LIMIT = 7

# The data set in static/: its file, how many flowers it has, and which get a wrong class.
DATA = "iris.json"
SIZE = 150
WRONG_ANSWERS: list[int] = [77, 106, 138]  # 3 of the 45 in the test split, where accuracy is 0.933

# How many flowers XGBoost is asked about when two are sent: one in each cell of the model's table,
# before they come. Without a table it is asked about the two.
ASKED = 1_960

# For so many flowers a body has room, as README says. Its recipes send no more at once.
ROOM = 10_000
# The file that the recipes read, and its columns in the order of the fields.
CSV = "iris.csv"
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]

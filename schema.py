"""What a sample is and what the classes are: the one module to edit to serve another data set.

After an edit, `python model/train.py` (or `python model/publish.py FILE`, for a model trained
elsewhere) checks this file against the data and writes everything that depends on it.
"""

from typing import Annotated

import msgspec

TITLE = "Iris prediction service"
DESCRIPTION = "Predicts the species of an iris from four measurements."

DATA = "model/iris.csv"  # a header line, then one sample per line
CLASS = "species"  # the column of DATA that contains the class
# The values in that column. The position of a name here is its label in the API: 0, 1 or 2.
CLASSES = ("setosa", "versicolor", "virginica")
# Two rows of DATA, counted from 0 after the header, of different classes: the examples throughout
# the documentation. If None, these are the medians of the two largest classes.
EXAMPLES = (149, 0)
# Whether the demo page and the documentation may show rows of DATA to anyone who can reach the
# service.
PUBLISH_DATA = True

# Each field is a float with both limits, ge and le. Add multiple_of=1 for whole numbers, and write
# `Length | None` for a field that may be null. The description is the unit.
Length = Annotated[float, msgspec.Meta(ge=0, le=100, description="in cm")]


# gc=False: a flower is never part of a reference cycle.
class Flower(msgspec.Struct, rename="camel", gc=False):
    """One iris, with its fields in the order that the model expects."""

    sepal_length_cm: Length
    sepal_width_cm: Length
    petal_length_cm: Length
    petal_width_cm: Length


Sample = Flower  # the name under which the other modules import it

"""Train the classifier and publish it: python model/train.py"""

from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

from publish import NAMES, publish, read_data


def main() -> None:
    samples, classes = read_data()
    train_samples, test_samples, train_classes, test_classes = train_test_split(
        samples, classes, test_size=0.3, random_state=42, stratify=classes
    )
    classifier = XGBClassifier(n_estimators=100, learning_rate=0.3)
    classifier.fit(train_samples, train_classes)
    classifier.get_booster().feature_names = NAMES  # tells `publish` that their order is right
    train_accuracy = classifier.score(train_samples, train_classes)
    test_accuracy = classifier.score(test_samples, test_classes)
    publish(classifier, f"accuracy: train {train_accuracy:.3f}, test {test_accuracy:.3f}")


if __name__ == "__main__":
    main()

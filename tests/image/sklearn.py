raise ImportError("as in the image, which has no scikit-learn: XGBoost starts in half the time")

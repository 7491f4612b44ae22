"""Training of the small models that predictors use."""

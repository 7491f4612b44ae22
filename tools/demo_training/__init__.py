"""Training the small models that come with the package. Development only: needs torch and transformers."""

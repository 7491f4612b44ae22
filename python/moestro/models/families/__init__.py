"""One file per family: config.json -> ModelSpec, and where its experts are found. See `moestro.models.registry`."""

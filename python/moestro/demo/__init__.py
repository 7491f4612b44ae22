"""The model of `moestro demo`: made on the spot, so that nothing has to be downloaded to see moestro run."""

"""Keys and values of sequences, in blocks of 64 positions."""

"""The `moestro` command; each subcommand is one file, imported when it is asked for."""

"""The stages of an experiment in order. Each can be stopped at any moment; the same command continues it."""

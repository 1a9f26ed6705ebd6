"""The stages of an experiment in order; each can be stopped at any moment and goes on with the same command."""

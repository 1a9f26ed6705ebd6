"""Figures, films and tables from a finished run."""

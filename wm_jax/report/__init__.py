"""Figures, films and report pages of runs."""

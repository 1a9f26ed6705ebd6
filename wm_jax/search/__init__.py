"""Searches for a controller: one file per search, registered by the `kind` of its settings."""

from wm_jax.search.protocol import SEARCHES, Dreams, EpisodeSearch, PopulationSearch, Search, SearchConfig

__all__ = ["SEARCHES", "Dreams", "EpisodeSearch", "PopulationSearch", "Search", "SearchConfig"]

"""How a controller is found: one file each, registered by their settings' `kind`."""

from wm_jax.search.protocol import SEARCHES, Dreams, EpisodeSearch, PopulationSearch, Search, SearchConfig

__all__ = ["SEARCHES", "Dreams", "EpisodeSearch", "PopulationSearch", "Search", "SearchConfig"]

"""How fast this machine does what the paper did, beside the limit that the same machine sets, measured in the same run.

Worker processes import this package, so it comes without JAX; `suite` runs the benchmarks.
"""

BENCHMARKS = "dream", "evolve", "plan", "vision", "memory", "rssm", "collect", "scaling"
"""Each is a module of this package with `measure(config, screen) -> Result`."""

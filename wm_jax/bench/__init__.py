"""Benchmarks of the paper's workloads on this machine. Each result is compared with a limit measured in the same run.

Worker processes import this package, so it must not import JAX; `suite` runs the benchmarks.
"""

BENCHMARKS = "dream", "evolve", "plan", "vision", "memory", "rssm", "collect", "scaling"
"""Each name is a module of this package with `measure(config, screen) -> Result`."""

"""`wm-jax` and `python -m wm_jax`.

Worker processes import the main module again. It does not import JAX here, so that they start fast and use little
memory.
"""

import sys


def main() -> None:
    """Run the command named by the arguments."""
    from wm_jax.command import ending

    with ending():
        if sys.argv[1:2] == ["run"]:
            _meet_others(sys.argv[2:])
        from wm_jax.cli import main
        from wm_jax.start_up import keep_programs

        keep_programs()
        main()


def _meet_others(arguments: list[str]) -> None:
    """Join the other processes, if this one is part of a group. Must run first: some libraries compute at import
    time."""
    import tyro

    from wm_jax.parallel import Hosts, start

    hosts, _ = tyro.cli(Hosts, prog="wm-jax run", args=arguments, return_unknown_args=True, add_help=False)
    start(hosts)


if __name__ == "__main__":
    main()

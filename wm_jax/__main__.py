"""`wm-jax` and `python -m wm_jax`.

Worker processes import the main module again: here it comes without JAX, so that they start fast and stay small.
"""


def main() -> None:
    """Run the command named by the arguments."""
    from wm_jax.cli import main

    main()


if __name__ == "__main__":
    main()

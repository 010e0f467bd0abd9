"""Command line: `python -m benchmarks --list`, `python -m benchmarks worth --help`."""

import argparse
import sys
from importlib import import_module

BENCHMARKS = (
    "worth",
    "transfer",
    "feature_cache",
    "augmentation",
    "pipeline",
    "step",
    "serving",
    "start",
    "growth",
    "search",
    "search_worth",
    "load",
)
"""A benchmark is a module here with `add_arguments(parser)` and `run(arguments)`."""


def main() -> None:
    """Parse and run."""
    name, *rest = sys.argv[1:] or ["--list"]
    if name == "--list":
        for known in BENCHMARKS:
            print(f"{known:14s} {import_module(f'benchmarks.{known}').__doc__.splitlines()[0]}")
        return
    if name not in BENCHMARKS:
        sys.exit(
            f"There is no benchmark {name!r}. Known: {', '.join(BENCHMARKS)}; --list says more."
        )
    module = import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    module.run(parser.parse_args(rest))


if __name__ == "__main__":
    main()

"""Command line: `python -m benchmarks --list`, `python -m benchmarks worth --help`."""

import argparse

from benchmarks import search, worth

BENCHMARKS = {"worth": worth, "search": search}
"""A benchmark is a module with `add_arguments(parser)` and `run(arguments)`."""


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--list", action="store_true", help="say what each benchmark compares")
    commands = parser.add_subparsers(dest="benchmark")
    for name, module in BENCHMARKS.items():
        summary = module.__doc__.splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    arguments = parser.parse_args()
    if arguments.list:
        for name, module in BENCHMARKS.items():
            print(f"{name:10s} {module.__doc__.splitlines()[0]}")
    elif arguments.benchmark is None:
        parser.error("name a benchmark, or --list")
    else:
        BENCHMARKS[arguments.benchmark].run(arguments)


if __name__ == "__main__":
    main()

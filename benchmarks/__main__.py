"""Run benchmarks: one, or all of them into one table.

python -m benchmarks --list
python -m benchmarks step --help
python -m benchmarks step --results runs/benchmarks.json
python -m benchmarks all --data photos/ --backbone base_model.keras --results runs/all.json
python -m benchmarks table --results runs/all.json --picture runs/all.png
"""

import argparse
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.results import draw, keep, markdown, show

BENCHMARKS = {
    "worth": "--data {data} --backbone {backbone}",
    "transfer": "--data {data} --backbone {backbone}",
    "feature_cache": "--data {data} --backbone {backbone}",
    "augmentation": "",
    "pipeline": "--data {data}",
    "step": "--backbone {backbone}",
    "serving": "--backbone {backbone}",
    "start": "",
    "growth": "",
    "search": "--data {data} --backbone {backbone}",
    "search_worth": "--data {data} --backbone {backbone}",
    "load": "{backbone}",
}
"""A benchmark is a module here with `add_arguments(parser)` and `run(arguments) -> list[Row]`;
beside its name stands what `all` runs it with."""


def main() -> None:
    """Parse and run."""
    name, *rest = sys.argv[1:] or ["--list"]
    if name in ("--list", "--help", "-h"):
        print(f"{__doc__}\n{', '.join(('all', 'table'))}, or one of these:\n")
        for known in BENCHMARKS:
            print(f"{known:14s} {import_module(f'benchmarks.{known}').__doc__.splitlines()[0]}")
    elif name in ("all", "table"):
        run_all(rest) if name == "all" else print_table(rest)
    elif name in BENCHMARKS:
        run_one(name, rest)
    else:
        known = ", ".join(["all", "table", *BENCHMARKS])
        sys.exit(f"There is no benchmark {name!r}. Known: {known}; --list says more.")


def run_one(name: str, rest: list[str]) -> None:
    """Run a benchmark, print its rows, and keep them where a file is named."""
    module = import_module(f"benchmarks.{name}")
    parser = _parser(name, module.__doc__)
    module.add_arguments(parser)
    parser.add_argument("--results", type=Path, help="JSON file to write the rows into")
    arguments = parser.parse_args(rest)
    rows = module.run(arguments)
    command = shlex.join(["python", "-m", "benchmarks", name, *rest])
    show(rows, title=command)
    if arguments.results:
        keep(arguments.results, name, command=command, rows=rows)


def run_all(rest: list[str]) -> None:
    """Run every benchmark in a process of its own, then print the table."""
    parser = _parser("all", run_all.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per class")
    parser.add_argument(
        "--backbone", type=Path, required=True, help="model without top that expects [-1, 1]"
    )
    parser.add_argument("--results", type=Path, required=True, help="JSON file for all rows")
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    given = vars(parser.parse_args(rest))
    failed = []
    for name, options in BENCHMARKS.items():
        command = [sys.executable, "-m", "benchmarks", name, "--results", str(given["results"])]
        command += [option.format(**given) for option in options.split()]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    _print(given["results"], picture=given["picture"])
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}; their rows are not in {given['results']}.")


def print_table(rest: list[str]) -> None:
    """Print the rows of a results file as Markdown, and draw them."""
    parser = _parser("table", print_table.__doc__)
    parser.add_argument("--results", type=Path, required=True, help="JSON file to read")
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    arguments = parser.parse_args(rest)
    _print(arguments.results, picture=arguments.picture)


def _print(results: Path, *, picture: Path | None) -> None:
    print(markdown(results))
    if picture:
        draw(results, picture)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    main()

"""Open each file named on the command line and print what came of it, as a line of JSON.

Seconds are of wall time and of processor time (that of the process that examines included),
megabytes are what this process grew to beyond its size before. (The other has a limit of its own.)
"""

import json
import resource
import sys
import time
from pathlib import Path

from tfinetune.security.examiner import EXAMINER
from tfinetune.security.loading import load_keras


def measure(path: Path) -> dict:
    """Open one file."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here on.
    before, wall, cpu = _status("VmRSS"), time.perf_counter(), _cpu_seconds()
    try:
        load_keras(path)
        error, message = None, ""
    except Exception as caught:
        error, message = type(caught).__mro__, str(caught)
    wall = time.perf_counter() - wall
    EXAMINER.stop()  # Its time counts as a child's once it ended.
    return {
        "wall_seconds": wall,
        "cpu_seconds": _cpu_seconds() - cpu,
        "megabytes": _status("VmHWM") - before,
        "error": error and [kind.__name__ for kind in error],
        "message": message,
    }


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _status(field: str) -> float:
    """Return a figure of this process in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(measure(Path(name))), flush=True)

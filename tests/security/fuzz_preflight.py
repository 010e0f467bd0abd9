"""Send damaged copies of model files through the preflight's checks, without TensorFlow.

    python fuzz_preflight.py FOLDER COUNT SEED ORIGINAL...

Each copy is examined in a forked process under the limits of the real child. Prints one line of
JSON: how many copies ended how, and those that ended otherwise than by an answer or by the limit on
processor time. What was accepted is left in FOLDER.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from mutation import mutants

from tfinetune.security import confinement

confinement.CPU_SECONDS = 0.3  # Plenty for small files, and every hang costs it.
ENDINGS = {0: "accepted", 1: "refused", -signal.SIGPROF: "hung"}


def examine_in_fork(path: Path) -> str:
    """Return how the examination of one file ended."""
    child = os.fork()
    if child == 0:
        try:
            confinement.limit_this_process(path.stat().st_size)
            answer = confinement.answer_of("examine_model", path)
            json.dumps(answer)
            os._exit(1 if "error" in answer else 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ENDINGS.get(code, f"code {code}")


def main(folder: Path, count: int, seed: int, originals: list[Path]) -> None:
    """Run."""
    endings: Counter[str] = Counter()
    unexpected = []
    contents = [path.read_bytes() for path in originals]
    for number, content in enumerate(mutants(contents, count, seed=seed)):
        path = folder / f"{number:05d}"
        path.write_bytes(content)
        ending = examine_in_fork(path)
        endings[ending] += 1
        if ending not in ENDINGS.values():
            unexpected.append(path.name)
        if ending != "accepted":
            path.unlink()
    print(json.dumps({"endings": endings, "unexpected": unexpected}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), list(map(Path, sys.argv[4:])))

"""A worker: `python -m tfinetune.search.worker CHIEF NAME FOLDER PARENT [--trust]`."""

import os
import sys
import threading
import time

from tfinetune.errors import TfinetuneError
from tfinetune.search.client import run_worker
from tfinetune.search.folder import SearchFolder
from tfinetune.security.saved_model import trusting


def main(chief: str, name: str, folder: str, parent: str, trust: str = "") -> None:
    """Train trials until the chief has no more, or its process is gone."""
    threading.Thread(target=_die_with, args=(int(parent),), daemon=True).start()
    try:
        with trusting(trust == "--trust"):
            run_worker(chief, name, SearchFolder.open(folder))
    except TfinetuneError as error:
        sys.exit(str(error))


def _die_with(parent: int) -> None:
    """End the process when its parent was killed: the search that is resumed starts others."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`python -m tfinetune` is the `tfinetune` command."""

from tfinetune.cli import main

main()

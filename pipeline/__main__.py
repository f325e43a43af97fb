"""`python -m pipeline` is `mds`."""

from pipeline.cli import main

main()

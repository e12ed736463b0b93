"""`python -m loramem` is the same as `loramem`."""

from loramem.cli import main

main()

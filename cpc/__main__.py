"""`python -m cpc` is the command `cpc`."""

from cpc.cli import main

main()

"""`python -m cli` is `headrace`."""

from cli.main import main

main()

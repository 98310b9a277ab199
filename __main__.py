"""`python -m tpplan`."""

from .cli.main import main

main()

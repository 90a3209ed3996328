"""``python -m dlf``: the command line, where the script ``dlf`` is not on the path."""

from dlf.cli.main import main

main()

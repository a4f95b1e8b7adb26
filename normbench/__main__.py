"""`python -m normbench` is the command `normbench`."""

import sys

from normbench.cli.main import program

if __name__ == "__main__":  # spawned children import this module again
    sys.exit(program())

"""`python -m normbench` is the command `normbench`."""

from normbench.cli.main import program

if __name__ == "__main__":  # spawned children import this module again
    program()

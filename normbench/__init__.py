"""normbench settles arguments about normalization and initialization by running the experiment."""

__version__ = "0.1.0"

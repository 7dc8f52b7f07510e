"""The version of the package, its image and its chart."""

__version__ = "0.1.0"

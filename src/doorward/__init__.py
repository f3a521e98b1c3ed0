"""Doorward: a zero-trust security gateway and toolkit for the Model Context Protocol."""

__version__ = "0.1.0"

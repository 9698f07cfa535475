"""Backpropagation through time: train recurrent networks, and see how far the gradient reaches."""

import lazy_loader

__version__ = "0.1.0"

# The names and where they live are in __init__.pyi; torch is imported when the first is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

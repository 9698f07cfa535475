"""Networks in, trained networks out: the loop, many processes, remedies, and what came of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["penalties"])

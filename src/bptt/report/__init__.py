"""What people see of a result."""

import lazy_loader

# plotly takes a while to import: the figures come when they are asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["plots"])

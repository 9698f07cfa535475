"""How a recurrent layer is computed: `info()` says by what, and `use` how else it may be."""

from bptt.kernel.binding import info as info
from bptt.kernel.binding import use as use

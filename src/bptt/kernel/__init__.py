"""How a recurrent layer is computed: `info()` says by what."""

from bptt.kernel.binding import info as info

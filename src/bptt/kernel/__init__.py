"""How a recurrent layer is computed: `info()` says by what."""

from bptt.kernel.ops import info as info

"""Parts of `bin/bench instant`."""

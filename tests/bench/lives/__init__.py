"""The parts of `bin/bench life`."""

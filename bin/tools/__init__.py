"""What bin/run, bin/test and bin/bench do once there is a Python: `options` to `supervise` run Casement."""

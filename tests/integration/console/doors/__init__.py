"""Both doors of the console, attacked over real sockets: web processes on one side, the gateway on the other."""

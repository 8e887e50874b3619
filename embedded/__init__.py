"""Real servers from wheels, and the supervisor that keeps children running. Only the command line imports it."""

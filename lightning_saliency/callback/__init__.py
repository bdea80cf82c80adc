"""When a trainer is observed, and where what is seen goes."""

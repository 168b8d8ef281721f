"""What contrib/bench scale measures: memory, CPU time and lag of a mount with much in it."""

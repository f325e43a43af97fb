"""Reading back what was recorded. Nothing here writes a data file or talks to a process."""

"""Status over HTTP, for people and monitors: read-only, and a process of its own, which recording does not need."""

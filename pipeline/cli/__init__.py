"""The commands. Click only: what they do is done elsewhere."""

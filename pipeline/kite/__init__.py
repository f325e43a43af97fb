"""Kite's side: the feed's connection, and the packets that come over it."""

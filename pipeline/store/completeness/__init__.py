"""What was received whole and what was missed, when and why, by the event log."""

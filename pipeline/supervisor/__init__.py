"""The supervisor process: starts and restarts the others, holds the subscriptions, answers questions."""

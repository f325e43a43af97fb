"""Kite's list of instruments: kept by day, looked things up in, and compared from one day to the next."""

"""Long drills and measurements, run by hand: `python -m bench.<module> --help`."""

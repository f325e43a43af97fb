"""The report about a recording: figures, charts, the page, and the export as JSON."""

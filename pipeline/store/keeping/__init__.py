"""The files of a data folder as things to keep: which there are, which days are closed, what may go."""

"""The Ray cluster that commands run on: its nodes, and what goes where."""

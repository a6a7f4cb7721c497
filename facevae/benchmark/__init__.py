"""How fast the program is, as ratios of rates that were measured side by side in one run."""

"""Pictures for people: charts of numbers, grids of faces."""

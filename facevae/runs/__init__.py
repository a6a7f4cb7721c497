"""What every run needs of a disk and a terminal."""

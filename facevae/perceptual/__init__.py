"""The frozen face network and the error that it sees."""

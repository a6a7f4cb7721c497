"""A command as a job of a Ray cluster: sent over HTTP, followed, stopped and found again."""

"""The pages for people, run as they are read."""

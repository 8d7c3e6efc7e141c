"""A public data set behind a small API and in a folder, and the job that loads it: `make run`."""

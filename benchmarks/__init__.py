"""Speed and memory, as ratios in one run: `make bench`. Nothing here is a test; shared machines are too noisy for that."""

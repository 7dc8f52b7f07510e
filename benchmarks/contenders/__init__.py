"""One module for each contender: its own check, and an app that it limits."""

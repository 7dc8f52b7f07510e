"""`python -m fleetlimit` is the command `fleetlimit`."""

from fleetlimit.cli import main

if __name__ == "__main__":
    main()

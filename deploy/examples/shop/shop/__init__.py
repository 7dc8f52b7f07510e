"""Example of a whole app behind Fleetlimit: accounts, plans, uploads, events and a chat."""

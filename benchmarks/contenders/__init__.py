"""Contenders: a module for each, with its own check and an app that it limits."""

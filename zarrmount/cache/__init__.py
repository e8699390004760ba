"""Caches of object data."""

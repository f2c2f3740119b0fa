"""Reads pictures back: which facts of a description a picture shows, from its pixels alone."""

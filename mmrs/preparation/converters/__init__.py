"""Conversion of published archives and of users' own files to the standard layout (see docs/datasets.md)."""

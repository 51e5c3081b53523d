"""Extracted triples as lines of JSON, tables, graphs and a page."""

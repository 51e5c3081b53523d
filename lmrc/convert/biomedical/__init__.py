"""Formats of biomedical abstracts beside PubTator: BioC, and lines of candidate pairs."""

"""From plain text to documents with mentions and entities, and long documents in windows."""

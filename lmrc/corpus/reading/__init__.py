"""Reading of documents: from files of any layout, checked against DocRED's format, and repaired if asked."""

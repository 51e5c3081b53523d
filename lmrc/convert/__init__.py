"""Data sets in other formats, as documents in DocRED's. A format is a module here and an entry of `formats.FORMATS`."""

"""`lmrc demo`: the whole pipeline on synthetic documents, on this machine."""

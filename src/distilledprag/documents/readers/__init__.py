"""One reader per file format: a file -> blocks of text under their headings. `documents/loading.py` chooses among them."""

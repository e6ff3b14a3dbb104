"""Asleep: no doors. It wakes on a queue, reads tables, and leaves an adapter and a row."""

import os

# oneDNN, below torch on CPUs, keeps the code it generates for each shape of a product, a thousand of them. A night's
# rows have many lengths: with 200 examples it kept two gigabytes, and to generate it again costs a night less than to
# keep it (docs/log.md; the model server, whose steps are short, keeps it). It is read at torch's first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

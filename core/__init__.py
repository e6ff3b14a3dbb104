"""The ground both halves stand on: it imports nothing of ours, and starts without torch."""

import os

# oneDNN, below torch on CPUs, keeps the code it generates for each shape of a product, a thousand of them. Rows have
# many lengths: a night of 200 examples kept two gigabytes of it, and to generate it again costs less than to keep it
# (docs/log.md). It is read when torch multiplies for the first time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

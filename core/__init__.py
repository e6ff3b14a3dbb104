"""The ground both halves stand on: it imports nothing of ours, and starts without torch."""

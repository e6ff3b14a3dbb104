"""WhatsApp through Meta's Cloud API. Facts and their sources: docs/channels.md."""

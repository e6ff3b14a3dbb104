"""WhatsApp through Twilio. Facts and their sources: docs/channels.md."""

"""One folder per outside system. Integrations never import one another.

example       the toy to copy: signature, read, send
twilio        WhatsApp through Twilio
meta          WhatsApp through Meta's Cloud API
slack         Slack through bolt
supabase      a private Storage bucket for adapter files
postgres      the embedded ledger
redis         the embedded doorbell, and RQ's queues
openai        any OpenAI-compatible server, through langchain
huggingface   the local model server and embedder
langsmith     redacted traces
"""

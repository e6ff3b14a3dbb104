"""Any OpenAI-compatible server: our own model server, vLLM, OpenAI itself; through langchain's client."""

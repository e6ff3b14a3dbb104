"""The local model server, the base models it serves, and the local embedder.

server             the command and the application        engine        the batching thread
chat_api           OpenAI's chat API, vLLM's LoRA API      attention     rows of a batch kept apart, and their slots
embeddings_api     OpenAI's embeddings API                linears       fused linear layers, with each row's adapter
serving_model      the base as it is served               int8          linear layers in 8 bits
embedded_base      which base, fetched from where         adapters      a version's folder, read for serving
bench              how long replies take                  embedder      sentences to vectors
"""

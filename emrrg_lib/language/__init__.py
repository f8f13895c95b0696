"""The language side: loading the LLM and its tokenizer, hybrid decoder layers, the prompt."""

"""A model on disk: safetensors headers, Hugging Face directories, packed stores."""

"""Text to tokens and back: tokenizer, chat templates, the model's own sampling defaults. Heavy imports come on use."""

"""What a model is: specs, rotary frequencies and families. A family is one short file."""

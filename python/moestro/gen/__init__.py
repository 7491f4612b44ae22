"""From prompts to answers: sampling, detokenising, batching and the step loop."""

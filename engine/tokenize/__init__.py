"""From texts to tokens: what callers give, texts that repeat, long ones, and the tokenizer."""

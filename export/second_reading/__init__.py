"""Token ids read a second time, by code that shares nothing with what makes a bundle's tokenizer."""

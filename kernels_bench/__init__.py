"""One benchmark a question, each runnable as a module."""

"""Examples of the public interface; `paritas demo` runs the one on Python's documentation."""

"""The HTTP dialects: each file translates between one of them and `paritas.serving.service`."""

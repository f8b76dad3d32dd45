"""The spec front end: the text of a YAML file in, an `ir.Normalizer` or a `SpecError` out."""

"""Explanations for people: a compilation as a document, in plain text, LaTeX or HTML."""

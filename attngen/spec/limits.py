"""How large and how deeply nested a spec may be.

A spec comes from anybody. Each bound is checked before the work that it bounds, so that no file makes the compiler hang
or run out of stack. They are far above what a normalizer needs: the largest known ones have fewer than 100 nodes.
"""

FILE_BYTES = 64 * 1024
YAML_NODES = 400
YAML_NESTING = 8
FORMULA_NODES = 2_000
FORMULA_NESTING = 64
INLINED_NODES = 4_000  # of a formula whose lets are replaced by their formulas
INLINED_NESTING = 100
LITERAL_CHARACTERS = 40
LITERAL_EXPONENT = 60  # powers of ten that are written out to be compared with float32's range
IDENTIFIER_CHARACTERS = 60
TITLE_CHARACTERS = 300
MISTAKES_SHOWN = 50

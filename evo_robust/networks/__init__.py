"""Networks outside a search: references, genotype files, generated code."""

"""Diagrams of the book, as SVG, with the sizes of its networks."""

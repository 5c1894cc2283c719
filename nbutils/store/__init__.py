"""The cellar: what was made, kept whole, with the code that made it. It knows no other room."""

"""Teachers: models or score columns from which a student learns beside its labels."""

"""Several recipes that differ in what is asked about, trained with several seeds and compared."""

"""Pure machines: what is legal, who is asked, what happens next. No I/O, clock or randomness."""

"""Motion clips that ship with the project; ``make_clips`` makes them."""

"""The command ``gaitway NOUN VERB``: thin, and importing nothing heavy before it knows what was asked."""

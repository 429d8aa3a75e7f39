"""The master's end of the line to its minions: who is let in, what is sent, what is heard and acknowledged."""

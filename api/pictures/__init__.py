"""Pictures for people: what a screen, a printed report and the shell show, from one renderer."""

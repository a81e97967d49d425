"""Pictures for people, on a screen, in a printed report and from the shell, all from one renderer."""

"""The dead-letter workbench: dry runs, replays and discards, done where the stages run."""

"""What is run for a long time, to see what seldom happens. ``PARTS`` are in ``__main__``."""

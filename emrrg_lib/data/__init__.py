"""From files to studies: the `Study` record, readers, report cleaning and the phantom data set."""

"""From files to studies: the table of data sets, readers, report cleaning, images, checks and downloads."""

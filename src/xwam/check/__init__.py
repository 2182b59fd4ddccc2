"""What is held against what should be: a data set's mistakes, the release's recorded numbers, a preset's memory."""

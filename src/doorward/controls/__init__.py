"""One control or posture a file, and the list that puts them in order."""

"""Study files, modules and other input that has to be refused in words."""

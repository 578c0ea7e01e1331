"""What is said of predicted classes alone: curves, calibrated probabilities, sets of classes."""

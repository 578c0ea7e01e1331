"""Studies compared with each other, with reported figures, and with scores from outside."""

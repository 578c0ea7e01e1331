"""What tests share: studies, clusters, databases, objectives, faults."""

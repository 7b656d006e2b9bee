"""The commands of this package: `spd-infer`, `spd-train`, `spd-eval`, `spd-doctor`, and what they share."""

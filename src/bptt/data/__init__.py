"""What there is to learn from: texts, tables, sequences and tasks."""

"""Contest problems: their record, their seeded generator, the judging of programs, and the embedded
model's training.
"""

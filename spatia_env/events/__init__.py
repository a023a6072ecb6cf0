"""Words and what they bring: the vocabulary, the classifier of sentences, the log of what was asked.

May import: geometry, io, errors, models (the sentence encoder).
"""
